package json

import (
	"encoding/json"
	"io"
)

// The schemas of what a running node says.
const (
	StatusSchema = "bulkhead/status/v1"
	ScopeSchema  = "bulkhead/scope/v1"
	EffectSchema = "bulkhead/effect/v1"
	ProbeSchema  = "bulkhead/probe/v1"

	AuthoritySchema   = "bulkhead/authority/v1"
	EgressAuditSchema = "bulkhead/egress-audit/v1"
)

// Document prints what a node said, an object, with its schema as the first field.
func Document(w io.Writer, schema string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	head, err := json.Marshal(schema)
	if err != nil {
		return err
	}
	return write(w, json.RawMessage(`{"schema":`+string(head)+","+string(text[1:])))
}

// Line prints one document in one line, for streams.
func Line(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }
