package netset

import (
	"fmt"
	"slices"
	"strings"
)

// ParseRequests reads the short form in which policies name requests, on any host: methods, then optionally one
// space or more and a path.
//
//	GET /features/1        one method, one path
//	GET,HEAD /models/**    two methods, every path below /models/
//	* /healthz             any method
//	GET                    any path at all
//
// A method is an upper-case token (RFC 9110, section 9.1); "*" alone means any method. The path is a pattern for
// [Segments] with '/': "*" is one segment, a last "**" is one or more. A final '/' counts: "/a" and "/a/" are two paths.
//
// The text of a path must have one spelling only, because two programs that compare different spellings of a
// path are a way around the policy. So '%', "." and ".." segments, empty segments except a last one, '?', '#', '\',
// control characters and everything else that RFC 3986 keeps out of a path are errors.
func ParseRequests(text string) (Requests, error) {
	methodPart, path, hasPath := strings.Cut(strings.Trim(text, " "), " ")
	methods, err := parseMethods(methodPart)
	if err != nil {
		return Requests{}, fmt.Errorf("request %q: %w", shortened(text), err)
	}
	paths := AnyString()
	if hasPath {
		if paths, err = parsePath(strings.TrimLeft(path, " ")); err != nil {
			return Requests{}, fmt.Errorf("request %q: %w", shortened(text), err)
		}
	}
	return RequestsOf(Pattern{Methods: methods, Hosts: AnyString(), Paths: paths}), nil
}

// parseMethods returns nil for any method.
func parseMethods(text string) ([]string, error) {
	switch {
	case text == "*":
		return nil, nil
	case text == "":
		return nil, fmt.Errorf("it names no method: write a method such as GET, or * for any, before the path")
	case strings.HasPrefix(text, "/"):
		return nil, fmt.Errorf("it starts with a path: write a method such as GET, or * for any, before it")
	}
	methods := strings.Split(text, ",")
	for i, method := range methods {
		if err := checkMethod(method); err != nil {
			return nil, err
		}
		if slices.Contains(methods[:i], method) {
			return nil, fmt.Errorf("method %s is listed twice: remove one", method)
		}
	}
	return methods, nil
}

func checkMethod(method string) error {
	if method == "" {
		return fmt.Errorf("a method is empty: write methods with one comma between them and no space, such as GET,HEAD")
	}
	for i := range len(method) {
		switch b := method[i]; {
		case b >= 'a' && b <= 'z':
			return fmt.Errorf("method %q has lower-case letters: methods are case-sensitive, write %s",
				method, strings.ToUpper(method))
		case b == '*':
			return fmt.Errorf("method %q mixes * with text: * stands alone and means any method", method)
		case b >= 'A' && b <= 'Z', b >= '0' && b <= '9', strings.IndexByte("!#$%&'+-.^_`|~", b) >= 0:
		default:
			return fmt.Errorf("method %q has the character %q: a method is a token of letters, digits and "+
				"!#$%%&'+-.^_`|~ (RFC 9110, section 9.1)", method, b)
		}
	}
	return nil
}

func parsePath(path string) (Language, error) {
	if !strings.HasPrefix(path, "/") {
		return Language{}, fmt.Errorf("path %q does not start with /: write /%s", shortened(path), shortened(path))
	}
	for i := range len(path) {
		if err := checkPathByte(path[i]); err != nil {
			return Language{}, fmt.Errorf("path %q: %w", shortened(path), err)
		}
	}
	segments := strings.Split(path[1:], "/")
	for i, segment := range segments {
		switch name, _, _ := strings.Cut(segment, ";"); {
		case name == "." || name == "..":
			return Language{}, fmt.Errorf("path %q has a %q segment: servers resolve it, so the text is not the path "+
				"they serve: write the resolved path", shortened(path), name)
		case segment == "" && i < len(segments)-1:
			return Language{}, fmt.Errorf("path %q has an empty segment (//): some servers merge the slashes and some "+
				"do not: write one /", shortened(path))
		}
	}
	return Segments(path, '/')
}

func checkPathByte(b byte) error {
	switch {
	case b == '/' || isPathByte(b):
		return nil
	case b == '%':
		return fmt.Errorf("it has a %%: the same path can be percent-encoded in many ways, and comparing encodings lets " +
			"requests around the rule: write the decoded text, or * for that segment")
	case b == '?':
		return fmt.Errorf("it has a ?: the query is not part of the path and is not compared: remove it")
	case b == '#':
		return fmt.Errorf("it has a #: a fragment is never sent to a server: remove it")
	case b == '\\':
		return fmt.Errorf("it has a \\: some servers read it as /: write /")
	case b == ' ':
		return fmt.Errorf("it has a space: a path has none; write one method list and one path")
	case b == '{' || b == '}':
		return fmt.Errorf("it has the character %q: write * for a segment that varies", b)
	case b < ' ' || b == 0x7f:
		return fmt.Errorf("it has the control character %q: remove it", b)
	case b > 0x7f:
		return fmt.Errorf("it has a byte outside ASCII: it reaches the server percent-encoded, in more than one way: " +
			"write * for that segment")
	}
	return fmt.Errorf("it has the character %q, which a path cannot have (RFC 3986, section 3.3): write * for that "+
		"segment", b)
}
