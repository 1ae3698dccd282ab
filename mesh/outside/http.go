package outside

// maxMethod is longer than every method that is registered.
const maxMethod = 32

// LooksLikeHTTP reports whether a connection begins with a request line of
// HTTP/1: a method of capital letters and hyphens, and a space. More says that
// the bytes which came so far do not tell. The preface of HTTP/2 is no request.
func LooksLikeHTTP(b []byte) (yes, more bool) {
	for i, c := range b {
		switch {
		case c == ' ':
			return i > 0 && string(b[:i]) != "PRI", false
		case i == maxMethod, (c < 'A' || c > 'Z') && (c != '-' || i == 0):
			return false, false
		}
	}
	return false, true
}
