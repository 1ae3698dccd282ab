package cli

import (
	"flag"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// A verb is one entry of the command table. Its help, its page in docs/cli.md
// and its shell completion are made from it.
type verb struct {
	name string
	// args is how the usage line shows the arguments; names says what each of
	// the first min is, for the error about a missing one.
	args  string
	names []string
	// short is one line, long what a user needs to know besides.
	short, long string
	examples    []example
	formats     []string // the first is the default; nil for no --format
	flags       []func(*flag.FlagSet, *options)
	// min and max bound the number of arguments; max is -1 for any number.
	min, max int
	// exits says what exit code 1 means for the verb; empty if it never
	// happens.
	exits string
	run   func(*call) (int, error)
}

type example struct{ command, says string }

// options are the values of all flags there are.
type options struct {
	format     string
	policy     string
	cni        string
	podCIDRs   values
	strict     bool
	all        bool
	hops       int
	from, to   string
	target     string
	signatures string
	out        string
	check      bool
	live       liveOptions
	gateway    gatewayOptions
	egress     egressOptions
}

// values is a flag that can be given several times, or with commas.
type values []string

func (v *values) String() string { return strings.Join(*v, ",") }

func (v *values) Set(text string) error {
	for one := range strings.SplitSeq(text, ",") {
		if one = strings.TrimSpace(one); one != "" {
			*v = append(*v, one)
		}
	}
	return nil
}

func (v *verb) flagSet(o *options) *flag.FlagSet {
	fs := flag.NewFlagSet(v.name, flag.ContinueOnError)
	if v.formats != nil {
		fs.StringVar(&o.format, "format", v.formats[0], "how to print the answer, as `FORMAT`: "+strings.Join(v.formats, ", "))
	}
	for _, add := range v.flags {
		add(fs, o)
	}
	return fs
}

func (v *verb) usage() string {
	parts := []string{"bulkhead", v.name}
	if v.args != "" {
		parts = append(parts, v.args)
	}
	if len(v.flagLines()) > 0 {
		parts = append(parts, "[flags]")
	}
	return strings.Join(parts, " ")
}

// missing says which argument is not there.
func (v *verb) missing(have int) string {
	return fmt.Sprintf("%s needs %s", v.name, v.names[min(have, len(v.names)-1)])
}

// flagLine is a flag as help shows it.
type flagLine struct{ name, arg, says, value string }

func (f flagLine) title() string {
	if f.arg == "" {
		return "--" + f.name
	}
	return "--" + f.name + " " + f.arg
}

func (v *verb) flagLines() []flagLine {
	var out []flagLine
	v.flagSet(&options{}).VisitAll(func(f *flag.Flag) {
		arg, says := flag.UnquoteUsage(f)
		line := flagLine{name: f.Name, arg: arg, says: says}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			line.value = f.DefValue
		}
		out = append(out, line)
	})
	return out
}

// writeHelp prints the help of a verb.
func (v *verb) writeHelp(w io.Writer) {
	fmt.Fprintf(w, "%s: %s\n\nusage: %s\n\n", v.name, v.short, v.usage())
	if v.long != "" {
		fmt.Fprintf(w, "%s\n\n", v.long)
	}
	fmt.Fprintf(w, "examples:\n")
	for _, e := range v.examples {
		fmt.Fprintf(w, "  %s\n      %s\n", e.command, e.says)
	}
	if lines := v.flagLines(); len(lines) > 0 {
		fmt.Fprintf(w, "\nflags:\n")
		width := 0
		for _, l := range lines {
			width = max(width, utf8.RuneCountInString(l.title()))
		}
		for _, l := range lines {
			says := l.says
			if l.value != "" {
				says += " (" + l.value + " if not given)"
			}
			fmt.Fprintf(w, "  %-*s  %s\n", width, l.title(), says)
		}
	}
	fmt.Fprintf(w, "\nexit codes:\n")
	for _, e := range v.exitCodes() {
		fmt.Fprintf(w, "  %d  %s\n", e.code, e.says)
	}
}

type exit struct {
	code int
	says string
}

func (v *verb) exitCodes() []exit {
	out := []exit{{Clean, "done, and nothing needs a person"}}
	if v.exits != "" {
		out = append(out, exit{Findings, v.exits})
	}
	return append(out, exit{Invalid, "the command or its input is wrong"}, exit{Incomplete, "the work could not be completed"})
}

func (c *Command) usage(w io.Writer) {
	fmt.Fprintf(w, "bulkhead proves and enforces the network isolation of AI platforms.\n\nusage: bulkhead VERB [ARGS] [flags]\n\n")
	width := 0
	for _, v := range verbs() {
		width = max(width, len(v.name))
	}
	for _, v := range verbs() {
		fmt.Fprintf(w, "  %-*s  %s\n", width, v.name, v.short)
	}
	fmt.Fprintf(w, "\nbulkhead help VERB explains one, with examples. Begin with: bulkhead audit PATH\n")
}

func (c *Command) help(args []string) int {
	if len(args) == 0 {
		c.usage(c.Stdout)
		return Clean
	}
	v := verbNamed(args[0])
	if v == nil {
		c.complain("there is no verb %q to explain", args[0])
		c.hint(nearOr(args[0], verbNames(), "bulkhead help lists them"))
		return Invalid
	}
	v.writeHelp(c.Stdout)
	return Clean
}

func verbNamed(name string) *verb {
	for _, v := range verbs() {
		if v.name == name {
			return v
		}
	}
	return nil
}

func verbNames() []string {
	var names []string
	for _, v := range verbs() {
		names = append(names, v.name)
	}
	return append(names, "help")
}
