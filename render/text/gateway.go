package text

import (
	"io"

	"bulkhead/render"
)

// Gateway prints what an egress gateway that stands alone does.
func Gateway(w io.Writer, g *render.Gateway, o Options) error {
	p := &printer{w: w, o: o}
	scheme := "http"
	if g.TLS {
		scheme = "https"
	}
	p.printf("%s: generation %d, mode %s\n", p.paint(bold, "the egress gateway serves"), g.Generation, p.mode(g.Mode))
	if g.Listen.IsValid() {
		p.printf("  proxy     %s://%s  for HTTPS_PROXY and HTTP_PROXY\n", scheme, g.Listen)
	}
	if g.Captured.IsValid() {
		p.printf("  captured  %s  for what a firewall redirects\n", g.Captured)
	}
	if g.DNS.IsValid() {
		p.printf("  resolver  %s\n", g.DNS)
	}
	for _, c := range g.Clients {
		p.printf("  client    %s\n", c)
	}
	if g.Inspected != "" {
		p.hanging("  "+p.paint(yellow, "inspected")+" ", "            ", "TLS of some destinations is ended here; their clients must trust "+g.Inspected)
	}
	p.printf("  records   %s\n", g.LogFile)
	if g.Admin.IsValid() {
		p.printf("  health    http://%s/readyz and /metrics\n", g.Admin)
	}
	return p.err
}

// mode shows a mode of the gateway; one that does not enforce stands out.
func (p *printer) mode(mode string) string {
	if mode == "enforce" {
		return mode
	}
	return p.paint(red, mode+", NOT ENFORCED")
}
