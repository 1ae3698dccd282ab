package cli

import (
	"fmt"
	"io"
	"strings"

	"bulkhead/app"
)

var shells = []string{"bash", "zsh", "fish"}

func (k *call) completion() (int, error) {
	switch k.args[0] {
	case "bash":
		bashCompletion(k.out)
	case "zsh":
		zshCompletion(k.out)
	case "fish":
		fishCompletion(k.out)
	default:
		return Invalid, &app.InputError{Says: fmt.Sprintf("there is no completion for %q", k.args[0]),
			Hint: nearOr(k.args[0], shells, "the shells are "+strings.Join(shells, ", "))}
	}
	return Clean, nil
}

// choices returns the words that can follow a flag, nil for a file or anything.
func (v *verb) choices(name string) []string {
	switch name {
	case "format":
		return v.formats
	case "target":
		return app.TargetNames()
	case "cni":
		return app.Profiles()
	}
	return nil
}

func bashCompletion(w io.Writer) {
	fmt.Fprintf(w, `# bash completion for bulkhead
_bulkhead() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]} flags=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W %q -- "$cur"))
    return
  fi
  case "$verb $prev" in
`, strings.Join(verbNames(), " "))
	for _, v := range verbs() {
		for _, f := range v.flagLines() {
			if words := v.choices(f.name); words != nil {
				fmt.Fprintf(w, "    %q) COMPREPLY=($(compgen -W %q -- \"$cur\")); return ;;\n", v.name+" --"+f.name, strings.Join(words, " "))
			}
		}
	}
	fmt.Fprintf(w, "  esac\n  case \"$verb\" in\n    help) COMPREPLY=($(compgen -W %q -- \"$cur\")); return ;;\n", strings.Join(verbNames(), " "))
	fmt.Fprintf(w, "    completion) COMPREPLY=($(compgen -W %q -- \"$cur\")); return ;;\n", strings.Join(shells, " "))
	for _, v := range verbs() {
		var flags []string
		for _, f := range v.flagLines() {
			flags = append(flags, "--"+f.name)
		}
		if flags != nil {
			fmt.Fprintf(w, "    %s) flags=%q ;;\n", v.name, strings.Join(flags, " "))
		}
	}
	fmt.Fprint(w, `  esac
  if [[ "$cur" == -* ]]; then
    COMPREPLY=($(compgen -W "$flags --help" -- "$cur"))
  fi
}
complete -o default -F _bulkhead bulkhead
`)
}

// zshQuote quotes text for a description in single quotes.
func zshQuote(text string) string {
	return strings.NewReplacer("'", "'\\''", "[", "\\[", "]", "\\]", ":", "\\:").Replace(text)
}

func zshCompletion(w io.Writer) {
	fmt.Fprint(w, "#compdef bulkhead\n\n_bulkhead() {\n  local -a verbs\n  verbs=(\n")
	for _, v := range verbs() {
		fmt.Fprintf(w, "    '%s:%s'\n", v.name, zshQuote(v.short))
	}
	fmt.Fprint(w, "    'help:explain a verb'\n  )\n  if (( CURRENT == 2 )); then\n    _describe verb verbs\n    return\n  fi\n  case ${words[2]} in\n")
	fmt.Fprintf(w, "    help) _describe verb verbs ;;\n    completion) compadd %s ;;\n", strings.Join(shells, " "))
	for _, v := range verbs() {
		lines := v.flagLines()
		if len(lines) == 0 {
			continue
		}
		fmt.Fprintf(w, "    %s) _arguments", v.name)
		for _, f := range lines {
			value := ""
			if f.arg != "" {
				value = ":" + strings.ToLower(f.arg) + ":_files"
				if words := v.choices(f.name); words != nil {
					value = ":" + strings.ToLower(f.arg) + ":(" + strings.Join(words, " ") + ")"
				}
			}
			fmt.Fprintf(w, " \\\n      '--%s[%s]%s'", f.name, zshQuote(f.says), value)
		}
		fmt.Fprint(w, " \\\n      '*:path:_files' ;;\n")
	}
	fmt.Fprint(w, "    *) _files ;;\n  esac\n}\n\nif [ \"$funcstack[1]\" = _bulkhead ]; then\n  _bulkhead \"$@\"\nelse\n  compdef _bulkhead bulkhead\nfi\n")
}

func fishQuote(text string) string {
	return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(text) + "'"
}

func fishCompletion(w io.Writer) {
	fmt.Fprintln(w, "# fish completion for bulkhead")
	for _, v := range verbs() {
		fmt.Fprintf(w, "complete -c bulkhead -n __fish_use_subcommand -f -a %s -d %s\n", v.name, fishQuote(v.short))
	}
	fmt.Fprintf(w, "complete -c bulkhead -n __fish_use_subcommand -f -a help -d 'explain a verb'\n")
	fmt.Fprintf(w, "complete -c bulkhead -n '__fish_seen_subcommand_from help' -f -a %s\n", fishQuote(strings.Join(verbNames(), " ")))
	fmt.Fprintf(w, "complete -c bulkhead -n '__fish_seen_subcommand_from completion' -f -a %s\n", fishQuote(strings.Join(shells, " ")))
	for _, v := range verbs() {
		for _, f := range v.flagLines() {
			line := fmt.Sprintf("complete -c bulkhead -n '__fish_seen_subcommand_from %s' -l %s -d %s", v.name, f.name, fishQuote(f.says))
			if words := v.choices(f.name); words != nil {
				line += " -x -a " + fishQuote(strings.Join(words, " "))
			} else if f.arg != "" {
				line += " -r"
			}
			fmt.Fprintln(w, line)
		}
	}
}
