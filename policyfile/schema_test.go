package policyfile

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"bulkhead/internal/yamldoc"
)

func compiledSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(SchemaID, doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// asJSON is how an editor sees a YAML value.
func asJSON(v yamldoc.Value) any {
	switch v.Kind() {
	case yamldoc.Map:
		m := map[string]any{}
		for k, val := range v.Entries() {
			m[k.Node().Value] = asJSON(val)
		}
		return m
	case yamldoc.List:
		list := []any{}
		for _, item := range v.Items() {
			list = append(list, asJSON(item))
		}
		return list
	case yamldoc.Scalar:
		text, _ := v.Text()
		if b, ok := v.Bool(); ok {
			return b
		}
		if i, ok := v.Int(); ok {
			return json.Number(json.Number(jsonInt(i)))
		}
		if v.Node().Tag == "!!float" {
			return json.Number("0.5")
		}
		return text
	}
	return nil
}

func jsonInt(i int64) string {
	text, _ := json.Marshal(i)
	return string(text)
}

func validate(t *testing.T, schema *jsonschema.Schema, f File) error {
	t.Helper()
	for v, d := range yamldoc.Documents(f.Name, f.Text, yamldoc.PolicyLimits) {
		if d != nil {
			return d2err{d.Message}
		}
		return schema.Validate(asJSON(v))
	}
	return nil
}

type d2err struct{ text string }

func (e d2err) Error() string { return e.text }

func TestSchemaAcceptsGoodPolicies(t *testing.T) {
	schema := compiledSchema(t)
	for name, files := range inputs(t, "testdata/ok") {
		for _, f := range files {
			if err := validate(t, schema, f); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if err := validate(t, schema, File{catalogueName, catalogueText}); err != nil {
		t.Errorf("catalogue: %v", err)
	}
}

// unseen are the rules that no schema can check.
var unseen = []string{ruleAddress, ruleConflict, ruleDocuments, ruleDupKey, ruleDupName, ruleHidden, ruleHost, ruleNoPolicy, ruleProxy, ruleService,
	ruleRequest, ruleTooLong, "alias", "key", "tag", "yaml"}

// TestSchemaRefusesBadPolicies breaks the schema once for each mistake: each
// error of a file is tried alone, in an otherwise good policy.
func TestSchemaRefusesBadPolicies(t *testing.T) {
	schema := compiledSchema(t)
	for name, files := range inputs(t, "testdata/err") {
		_, ds := Parse(files)
		seen := 0
		for _, d := range ds {
			if !strings.Contains(strings.Join(unseen, " "), d.Rule) {
				seen++
			}
		}
		if seen == 0 {
			continue
		}
		refused := false
		for _, f := range files {
			refused = refused || validate(t, schema, f) != nil
		}
		if !refused {
			t.Errorf("the schema accepts %s", name)
		}
	}
}

func TestSchemaRefusesEachMistake(t *testing.T) {
	schema := compiledSchema(t)
	for _, text := range []string{
		"version: 2", "platform: a", "version: 1\nplatform: A", "version: 1\nzones: {a: {}}", "version: 1\nzones: {A: {role: data}}",
		"version: 1\nzones: {a: {role: datum}}", "version: 1\nzones: {a: {role: data, x: y}}", "version: 1\nfoo: bar",
		"version: 1\nflows: [{from: [], to: b}]", "version: 1\nflows: [{from: a}]", "version: 1\nflows: {from: a}",
		"version: 1\nflows: [{from: a, to: b, may: reed}]", "version: 1\nflows: [{from: a, to: b, until: soon}]",
		"version: 1\nflows: [{from: a, to: b, until: 2027-02-30}]", "version: 1\nflows: [{from: a, to: b, because: 5}]",
		"version: 1\nworkloads: {w: {zone: a, serves: {a: htpp/80}}}", "version: 1\nworkloads: {w: {zone: a, serves: {a: tcp/0}}}",
		"version: 1\nworkloads: {w: {zone: a, serves: {a: {protocol: tcp}}}}",
		"version: 1\nworkloads: {w: {zone: a, serves: {a: {protocol: tcp, port: 0}}}}",
		"version: 1\negress: [{from: a, to: b, ports: 65536}]", "version: 1\nexposures: [{to: a, from: intrnet}]",
		"version: 1\ntests: [{from: a, to: b}]", "version: 1\ngateway: proxy", "version: 1\ngateway: {}",
		"version: 1\ninvariants: [{id: a, from: a, to: b, transitive: 1}]", "version: 1\nzones:", "[]", "x",
	} {
		if validate(t, schema, File{"f", []byte(text)}) == nil {
			t.Errorf("the schema accepts\n%s", text)
		}
		if p, _ := Parse([]File{{"f", []byte(text)}}); p != nil {
			t.Errorf("the parser accepts\n%s", text)
		}
	}
}

func TestSchemaDescribesEveryKey(t *testing.T) {
	eachKey(language, "", func(string) {})
	var walk func(s *shape, path string)
	walk = func(s *shape, path string) {
		if s.scalar != nil && (s.scalar.doc == "" || s.scalar.wants == "") {
			t.Errorf("%s: its syntax %s has no doc", path, s.scalar.name)
		}
		if s.list != nil {
			walk(s.list, path)
		}
		if s.named != nil {
			walk(s.named.item, path)
		}
		if s.record == nil {
			return
		}
		for _, k := range s.record.keys {
			if k.doc == "" {
				t.Errorf("%s.%s has no doc", path, k.name)
			}
			walk(k.shape, path+"."+k.name)
		}
	}
	walk(language, "")
}
