package cli

import (
	"fmt"
	"io"
	"strings"
)

// Reference writes the part of docs/cli.md that is made from the command
// table.
func Reference(w io.Writer) {
	fmt.Fprint(w, "\n## Verbs\n\n| verb | |\n|---|---|\n")
	for _, v := range verbs() {
		fmt.Fprintf(w, "| [`%s`](#%s) | %s |\n", v.name, v.name, v.short)
	}
	for _, v := range verbs() {
		v.writeReference(w)
	}
}

func (v *verb) writeReference(w io.Writer) {
	fmt.Fprintf(w, "\n### %s\n\n%s.\n\n```\n%s\n```\n", v.name, upper(v.short), v.usage())
	if v.long != "" {
		fmt.Fprintf(w, "\n%s\n", v.long)
	}
	fmt.Fprint(w, "\n```sh\n")
	for _, e := range v.examples {
		fmt.Fprintf(w, "# %s\n%s\n", e.says, e.command)
	}
	fmt.Fprint(w, "```\n")
	if lines := v.flagLines(); len(lines) > 0 {
		fmt.Fprint(w, "\n| flag | |\n|---|---|\n")
		for _, l := range lines {
			says := l.says
			if l.value != "" {
				says += " (`" + l.value + "` if not given)"
			}
			fmt.Fprintf(w, "| `%s` | %s |\n", l.title(), strings.ReplaceAll(says, "|", "\\|"))
		}
	}
	if v.exits != "" {
		fmt.Fprintf(w, "\nExit code 1: %s.\n", v.exits)
	}
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
