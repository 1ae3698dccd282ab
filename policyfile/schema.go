package policyfile

import (
	"encoding/json"
	"strings"
	"sync"
)

// SchemaID identifies the schema of version 1 of the language.
const SchemaID = "urn:bulkhead:policy:v1"

// Schema returns the JSON Schema (draft 2020-12) of one policy file, for
// completion and checks in editors. It is made from the same table as the
// parser and is a little wider: what a pattern cannot say, such as which days
// a month has, only the parser checks. Duplicates it cannot see at all.
func Schema() []byte { return append([]byte(nil), schemaText()...) }

var schemaText = sync.OnceValue(func() []byte {
	s := schemaMaker{defs: object{}}
	root := s.shape(language)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = SchemaID
	root["title"] = "bulkhead policy"
	root["$defs"] = s.defs
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // the table holds nothing but strings
	}
	return append(text, '\n')
})

type object = map[string]any

// schemaMaker turns the language into a schema. Each syntax becomes a
// definition of its own.
type schemaMaker struct{ defs object }

func (m *schemaMaker) shape(s *shape) object {
	var forms []object
	if s.scalar != nil {
		forms = append(forms, m.syntax(s.scalar))
	}
	if s.list != nil {
		list := object{"type": "array", "items": m.shape(s.list)}
		if !s.mayBeEmpty {
			list["minItems"] = 1
		}
		forms = append(forms, list)
	}
	if s.record != nil {
		forms = append(forms, m.record(s.record))
	}
	if s.named != nil {
		names := object{"type": "object", "propertyNames": m.syntax(s.named.name),
			"additionalProperties": m.shape(s.named.item)}
		if !s.mayBeEmpty {
			names["minProperties"] = 1
		}
		forms = append(forms, names)
	}
	schema := forms[0]
	if len(forms) > 1 {
		schema = object{"anyOf": forms}
	}
	if s.doc != "" {
		schema["description"] = s.doc
	}
	return schema
}

func (m *schemaMaker) record(r *record) object {
	properties := object{}
	var required []string
	for _, k := range r.keys {
		p := m.shape(k.shape)
		p["description"] = k.doc
		properties[k.name] = p
		if k.required {
			required = append(required, k.name)
		}
	}
	schema := object{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		schema["required"] = required
	}
	if len(r.oneOf) > 0 {
		var any []object
		for _, name := range r.oneOf {
			any = append(any, object{"required": []string{name}})
		}
		schema["anyOf"] = any
	}
	return schema
}

// syntax returns a reference to the definition of a syntax.
func (m *schemaMaker) syntax(s *syntax) object {
	if m.defs[s.name] == nil {
		m.defs[s.name] = s.schema()
	}
	return object{"$ref": "#/$defs/" + s.name}
}

func (s *syntax) schema() object {
	schema := object{"description": s.doc}
	words := object{"enum": s.words}
	pattern := object{"type": "string", "pattern": s.pattern}
	ports := object{"type": "integer", "minimum": 1, "maximum": max(s.most, 1)}
	switch {
	case s.kind == anyScalar:
		schema["type"] = []string{"string", "number", "boolean"}
	case s.kind == truth:
		schema["type"] = "boolean"
	case s.kind == number && len(s.words) > 0:
		schema["enum"] = []json.RawMessage{json.RawMessage(strings.Join(s.words, ","))}
	case s.kind == number:
		merge(schema, ports)
	case s.kind == numberOrText:
		schema["anyOf"] = []object{ports, pattern}
	case s.pattern == "":
		merge(schema, words)
	case len(s.words) > 0:
		schema["anyOf"] = []object{words, pattern}
	default:
		merge(schema, pattern)
	}
	if s.format != "" {
		schema["format"] = s.format
	}
	if limit := s.limit(); limit > 0 {
		schema["maxLength"] = limit
	}
	return schema
}

// limit returns the greatest length of a text, 0 if its parts have limits of
// their own.
func (s *syntax) limit() int {
	switch s {
	case name, workloadName, identifier, word:
		return maxName
	case fieldValue:
		return maxField
	case prose:
		return maxProse
	case fieldName:
		return maxKey
	}
	return 0
}

func merge(into, from object) {
	for k, v := range from {
		into[k] = v
	}
}
