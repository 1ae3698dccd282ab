// Package cli is the front door on the command line: it reads flags, calls a
// use-case of package app and lets a format of package render print the answer.
//
// The rules of its interface are in docs/cli.md. In short: standard output is
// only the answer; everything else goes to standard error, as `bulkhead: …` in
// lower case; what is wrong comes with what to do about it; a colour or a
// progress bar is shown only to a terminal. The exit codes are the constants
// below, the same for every verb.
package cli

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"bulkhead/app"
	"bulkhead/core/source"
	"bulkhead/render/text"
)

// The exit codes.
const (
	// Clean means that the work was done and nothing needs a person.
	Clean = 0
	// Findings means that the work was done and something does.
	Findings = 1
	// Invalid means that the command or its input is wrong.
	Invalid = 2
	// Incomplete means that the work could not be completed.
	Incomplete = 3
)

// Command is one run of the program, with the world it runs in. It is like
// exec.Cmd: fill it in and call Run.
type Command struct {
	// Args are the arguments without the name of the program.
	Args           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Dir is where relative paths start; empty for the directory of the
	// process.
	Dir string
	// Now is the time by which permissions expire.
	Now time.Time
	// Getenv reads the environment; nil for an empty one.
	Getenv  func(string) string
	Version string
}

// call is one run of a verb.
type call struct {
	*Command
	verb *verb
	opts options
	args []string
	out  *bufio.Writer
	env  *app.Env
	bar  *bar
}

// Run runs the command and returns its exit code.
func (c *Command) Run() int {
	if c.Getenv == nil {
		c.Getenv = func(string) string { return "" }
	}
	if len(c.Args) == 0 {
		c.usage(c.Stderr)
		return Invalid
	}
	name := c.Args[0]
	switch name {
	case "-h", "-help", "--help":
		c.usage(c.Stdout)
		return Clean
	case "-version", "--version":
		name = "version"
	case "help":
		return c.help(c.Args[1:])
	}
	v := verbNamed(name)
	if v == nil {
		c.complain("there is no verb %q", name)
		c.hint(nearOr(name, verbNames(), "bulkhead help lists them"))
		return Invalid
	}
	k := &call{Command: c, verb: v}
	args, err := k.parse(c.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		v.writeHelp(c.Stdout)
		return Clean
	case err != nil:
		return c.fail(err, v)
	}
	k.args = args
	return k.run()
}

func (k *call) run() int {
	k.out = bufio.NewWriterSize(k.Stdout, 1<<16)
	k.bar = newBar(k.Stderr)
	k.env = &app.Env{Stdin: k.Stdin, Dir: k.Dir, Now: k.Now, Version: k.Version, Getenv: k.Getenv, Progress: k.bar.show}
	code, err := k.verb.run(k)
	k.bar.clear()
	if err == nil {
		err = k.out.Flush()
	} else {
		k.out.Flush() // the error that came first matters
	}
	if err != nil {
		return k.fail(err, k.verb)
	}
	return code
}

// parse reads flags and arguments, which may come in any order; after `--`
// everything is an argument.
func (k *call) parse(args []string) ([]string, error) {
	fs := k.verb.flagSet(&k.opts)
	fs.SetOutput(io.Discard)
	var words []string
	for {
		if err := fs.Parse(args); err != nil {
			return nil, flagError(k.verb, fs, err)
		}
		rest := fs.Args()
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" || len(rest) == 0 {
			words = append(words, rest...)
			break
		}
		words = append(words, rest[0])
		args = rest[1:]
	}
	if k.verb.formats != nil && !slices.Contains(k.verb.formats, k.opts.format) {
		return nil, &app.InputError{Says: fmt.Sprintf("%s has no format %q", k.verb.name, k.opts.format),
			Hint: nearOr(k.opts.format, k.verb.formats, "the formats are "+strings.Join(k.verb.formats, ", "))}
	}
	switch {
	case len(words) < k.verb.min:
		return nil, &app.InputError{Says: k.verb.missing(len(words)), Hint: "for example: " + k.verb.examples[0].command}
	case k.verb.max >= 0 && len(words) > k.verb.max:
		return nil, &app.InputError{Says: fmt.Sprintf("%s takes no argument %q", k.verb.name, words[k.verb.max]),
			Hint: "usage: " + k.verb.usage()}
	}
	return words, nil
}

// flagError says what is wrong with a flag, with the one that was meant.
func flagError(v *verb, fs *flag.FlagSet, err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	says := err.Error()
	name, unknown := strings.CutPrefix(says, "flag provided but not defined: -")
	if !unknown {
		return &app.InputError{Says: strings.ReplaceAll(says, " -", " --"), Hint: "see bulkhead help " + v.name}
	}
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	hint := "see bulkhead help " + v.name
	if near := source.Nearest(strings.TrimPrefix(name, "-"), names); near != "" {
		hint = "did you mean --" + near + "?"
	}
	return &app.InputError{Says: fmt.Sprintf("%s has no flag --%s", v.name, strings.TrimPrefix(name, "-")), Hint: hint}
}

// nearOr suggests the candidate that text was probably meant to be.
func nearOr(text string, candidates []string, otherwise string) string {
	if near := source.Nearest(text, candidates); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return otherwise
}

// fail reports an error and returns the exit code that it means.
func (c *Command) fail(err error, v *verb) int {
	var bad *app.BadInput
	var in *app.InputError
	switch {
	case errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		return Clean // whoever read the answer has read enough
	case errors.As(err, &bad):
		if werr := text.Diagnostics(c.Stderr, bad.Diagnostics, text.Line(bad.Lines), c.look(c.Stderr)); werr != nil {
			return Incomplete
		}
		return Invalid
	case errors.As(err, &in):
		c.complain("%s", in.Says)
		c.choices(in.Choices)
		if in.Hint != "" {
			c.hint(in.Hint)
		}
		return Invalid
	}
	c.complain("%s could not be completed: %v", v.name, err)
	return Incomplete
}

func (c *Command) complain(format string, args ...any) {
	fmt.Fprintf(c.Stderr, "bulkhead: %s\n", text.Clean(fmt.Sprintf(format, args...)))
}

func (c *Command) hint(says string) { fmt.Fprintf(c.Stderr, "  %s\n", text.Clean(says)) }

// maxChoices is how many choices an error lists.
const maxChoices = 12

func (c *Command) choices(choices []string) {
	for i, choice := range choices {
		if i == maxChoices && len(choices) > maxChoices+1 {
			fmt.Fprintf(c.Stderr, "    … and %d more\n", len(choices)-i)
			return
		}
		fmt.Fprintf(c.Stderr, "    %s\n", text.Clean(choice))
	}
}
