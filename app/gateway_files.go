package app

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"bulkhead/policyfile"
)

// textsOf joins the texts of a policy, so that two can be compared.
func textsOf(files []policyfile.File) string {
	var b strings.Builder
	for _, f := range files {
		b.WriteString(f.Name)
		b.WriteByte(0)
		b.Write(f.Text)
		b.WriteByte(0)
	}
	return b.String()
}

func digestOf(files []policyfile.File) string {
	sum := sha256.Sum256([]byte(textsOf(files)))
	return hex.EncodeToString(sum[:])
}
