package host

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"bulkhead/core/policy"
	"bulkhead/core/source"
)

// BindingName is what a policy writes under `at:` for a workload on a machine.
const BindingName = "host"

// Binding says what a workload of a policy is on a machine: a command to run,
// or processes that run already.
type Binding struct {
	// Run is the command, Prepare one that is run before it without isolation.
	Run, Prepare []string
	Dir          string   // relative to the policy's folder, which it is if empty
	Env          []string // NAME=VALUE, in the order of the text
	User         string
	// Node is the machine; empty means the only one.
	Node string
	// Unit is a systemd unit, Cgroup a control group of version 2.
	Unit, Cgroup string
	// Gateway says that the egress gateway of the machine is the workload.
	Gateway bool
	Pos     source.Pos
}

var bindingFields = []string{"run", "prepare", "dir", "env", "user", "node", "unit", "cgroup", "gateway"}

// ParseBinding reads a binding `host: {…}`.
func ParseBinding(b policy.Binding) (Binding, source.Diagnostics) {
	r := bindingReader{out: Binding{Pos: b.Target.Pos}, at: map[string]source.Pos{}}
	for _, f := range b.Fields {
		r.read(f)
	}
	r.together()
	return r.out, r.ds
}

type bindingReader struct {
	out Binding
	ds  source.Diagnostics
	at  map[string]source.Pos // the fields that are there
}

func (r *bindingReader) read(f policy.Field) {
	key := f.Key.Value
	if !slices.Contains(bindingFields, key) {
		d := r.ds.Errorf("unknown-field", f.Key.Pos, "a host binding has no field %q", key)
		if near := source.Nearest(key, bindingFields); near != "" {
			d.WithFix("did you mean %q?", near)
		} else {
			d.WithFix("the fields are %s", strings.Join(bindingFields, ", "))
		}
		return
	}
	if first, ok := r.at[key]; ok {
		r.ds.Errorf("duplicate-name", f.Key.Pos, "%s of a host binding is there twice", key).WithNote(first, "first here")
		return
	}
	r.at[key] = f.Key.Pos
	switch key {
	case "run":
		r.out.Run = r.command(f, anyPlaceholder)
	case "prepare":
		r.out.Prepare = r.command(f, folderPlaceholder)
	case "env":
		r.out.Env = r.variables(f)
	case "dir":
		r.out.Dir = r.word(f)
	case "user":
		r.out.User = r.word(f)
	case "node":
		r.out.Node = r.word(f)
	case "unit":
		r.out.Unit = r.word(f)
		if strings.Contains(r.out.Unit, "/") {
			r.ds.Errorf("unit", f.Text.Pos, "%q is no name of a systemd unit", f.Text.Value).WithFix("write a name such as postgresql.service")
		}
	case "gateway":
		r.out.Gateway = f.Text.Value == "true"
		if !r.out.Gateway {
			r.ds.Errorf("wrong-type", f.Key.Pos, "gateway of a host binding can only be true").WithFix("write gateway: true, or leave it out")
		}
	case "cgroup":
		r.out.Cgroup = r.word(f)
		if c := r.out.Cgroup; c != "" && (path.Clean("/"+c) == "/" || slices.Contains(strings.Split(c, "/"), "..")) {
			r.ds.Errorf("cgroup", f.Text.Pos, "%q is no control group of a workload", c).WithFix("write a path such as /system.slice/postgresql.service")
		}
	}
}

func (r *bindingReader) word(f policy.Field) string {
	if f.Text.Value == "" || len(f.Map) > 0 || len(f.List) > 0 {
		r.ds.Errorf("wrong-type", f.Key.Pos, "%s of a host binding must be a word", f.Key.Value)
		return ""
	}
	r.noNUL(f.Text)
	return f.Text.Value
}

func (r *bindingReader) command(f policy.Field, allowed func(string) error) []string {
	if len(f.List) == 0 || f.List[0].Value == "" {
		r.ds.Errorf("wrong-type", f.Key.Pos, "%s of a host binding must be a list: the program and its arguments", f.Key.Value).
			WithFix("write %s: [program, argument]; there is no shell, unless it is the program: [sh, -c, \"…\"]", f.Key.Value)
		return nil
	}
	var words []string
	for _, w := range f.List {
		r.placeholders(w, allowed)
		words = append(words, w.Value)
	}
	return words
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (r *bindingReader) variables(f policy.Field) []string {
	if len(f.Map) == 0 {
		r.ds.Errorf("wrong-type", f.Key.Pos, "env of a host binding must be a map of variables").WithFix("write env: {NAME: value}")
	}
	var env []string
	for _, v := range f.Map {
		if !variableName.MatchString(v.Key.Value) {
			r.ds.Errorf("variable-name", v.Key.Pos, "%q cannot be the name of a variable", v.Key.Value).WithFix("use letters, digits and _")
			continue
		}
		if len(v.List) > 0 || len(v.Map) > 0 {
			r.ds.Errorf("wrong-type", v.Key.Pos, "the variable %s must be a text", v.Key.Value)
			continue
		}
		r.placeholders(v.Text, anyPlaceholder)
		env = append(env, v.Key.Value+"="+v.Text.Value)
	}
	return env
}

func (r *bindingReader) noNUL(t policy.Text) {
	if strings.ContainsRune(t.Value, 0) {
		r.ds.Errorf("nul", t.Pos, "%q has a NUL, which no program can be given", t.Value)
	}
}

func (r *bindingReader) placeholders(t policy.Text, allowed func(ref string) error) {
	r.noNUL(t)
	_, err := Expand(t.Value, func(ref string) (string, error) { return "", allowed(ref) })
	if err != nil {
		r.ds.Errorf("placeholder", t.Pos, "%v", err).WithFix("%s", placeholderFix)
	}
}

// together checks which fields stand side by side.
func (r *bindingReader) together() {
	var subjects []string
	for _, key := range []string{"run", "unit", "cgroup", "gateway"} {
		if _, ok := r.at[key]; ok {
			subjects = append(subjects, key)
		}
	}
	for _, other := range subjects[min(1, len(subjects)):] {
		r.ds.Errorf("either-or", r.at[other], "a host binding has %s or %s, not both", subjects[0], other).
			WithNote(r.at[subjects[0]], "%s is here", subjects[0]).
			WithFix("run starts the workload; unit and cgroup name processes that run already; gateway is the machine's own")
	}
	if len(subjects) == 0 || subjects[0] == "run" {
		return
	}
	for _, key := range []string{"prepare", "dir", "env", "user"} {
		if pos, ok := r.at[key]; ok {
			r.ds.Errorf("either-or", pos, "%s of a host binding belongs to run; %s names processes that run already", key, subjects[0]).
				WithFix("remove %s", key)
		}
	}
}

const placeholderFix = "placeholders are {WORKLOAD/SERVICE} for the address of a service, {own/SERVICE} for the workload's own, {egress} for the URL of the egress gateway, {bin} for the folder of prepared programs; write {{ for a brace"

var placeholderName = regexp.MustCompile(`^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$`)

func anyPlaceholder(ref string) error {
	if ref != "bin" && ref != "egress" && !placeholderName.MatchString(ref) {
		return fmt.Errorf("{%s} is no placeholder", ref)
	}
	return nil
}

// folderPlaceholder: nothing runs yet when programs are prepared.
func folderPlaceholder(ref string) error {
	if ref != "bin" {
		return fmt.Errorf("{%s} is no placeholder of prepare, which knows only {bin}", ref)
	}
	return nil
}

// Expand replaces every {REF} in text by what resolve returns for REF: `bin`,
// `egress`, `own/SERVICE` or `WORKLOAD/SERVICE`. {{ and }} stand for braces; a single }
// without a { before it is itself.
func Expand(text string, resolve func(ref string) (string, error)) (string, error) {
	var b strings.Builder
	for {
		i := strings.IndexAny(text, "{}")
		if i < 0 {
			b.WriteString(text)
			return b.String(), nil
		}
		b.WriteString(text[:i])
		brace := text[i : i+1]
		text = text[i+1:]
		if strings.HasPrefix(text, brace) || brace == "}" {
			b.WriteString(brace)
			text = strings.TrimPrefix(text, brace)
			continue
		}
		ref, rest, ok := strings.Cut(text, "}")
		if !ok {
			return "", fmt.Errorf("{%s has no closing brace", text)
		}
		value, err := resolve(ref)
		if err != nil {
			return "", err
		}
		b.WriteString(value)
		text = rest
	}
}
