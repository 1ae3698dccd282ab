package node

import "net/http"

// adminProbe is replaced soon.
func (n *Node) adminProbe(w http.ResponseWriter, r *http.Request) {
	refuse(w, http.StatusNotImplemented, "", "probe is not there yet")
}
