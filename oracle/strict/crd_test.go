package strict

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// crd judges objects as an API server does that has a CustomResourceDefinition
// installed: unknown fields, the schema, and the CEL rules.
type crd struct {
	schema    validation.SchemaValidator
	structure *schema.Structural
	rules     *cel.Validator
}

// clusterNetworkPolicy returns the definition that network-policy-api ships in
// a channel, standard or experimental.
func clusterNetworkPolicy(t *testing.T, channel string) *crd {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config", "crd", channel, "policy.networking.k8s.io_clusternetworkpolicies.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var def apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(text, &def); err != nil {
		t.Fatal(err)
	}
	for _, v := range def.Spec.Versions {
		if v.Name != "v1alpha2" {
			continue
		}
		var props apiextensions.JSONSchemaProps
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &props, nil); err != nil {
			t.Fatal(err)
		}
		c := &crd{}
		if c.schema, _, err = validation.NewSchemaValidator(&props); err != nil {
			t.Fatal(err)
		}
		if c.structure, err = schema.NewStructural(&props); err != nil {
			t.Fatal(err)
		}
		if c.rules = cel.NewValidator(c.structure, true, celconfig.PerCallLimit); c.rules == nil {
			t.Fatal("the definition has no CEL rules")
		}
		return c
	}
	t.Fatal("there is no v1alpha2")
	return nil
}

// errors returns what is wrong with an object.
func (c *crd) errors(o map[string]any) []string {
	var out []string
	errs := validation.ValidateCustomResource(nil, o, c.schema)
	rules, _ := c.rules.Validate(context.Background(), (*field.Path)(nil), c.structure, o, nil, celconfig.RuntimeCELCostBudget)
	for _, e := range append(errs, rules...) {
		out = append(out, e.Error())
	}
	unknown := pruning.PruneWithOptions(o, c.structure, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	for _, u := range unknown {
		out = append(out, u+": unknown field")
	}
	return out
}
