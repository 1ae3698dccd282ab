package kube

import (
	"strings"

	"bulkhead/core/network"
)

// NamespaceLabel is set on every namespace by the API server, to its name.
const NamespaceLabel = "kubernetes.io/metadata.name"

var operators = map[string]network.Operator{
	"In": network.In, "NotIn": network.NotIn, "Exists": network.Exists, "DoesNotExist": network.DoesNotExist,
}

// Selector reads a LabelSelector. An empty one, `{}`, selects everything. It
// reports false when n is absent or no selector at all.
func Selector(n Node) (network.Selector, bool) {
	if !n.Known("matchLabels", "matchExpressions") {
		return nil, false
	}
	var s network.Selector
	labels := n.Field("matchLabels")
	for k, v := range labels.StringMap() {
		if !ValidLabelValue(v) {
			labels.Field(k).Errorf("label-value", "%q cannot be the value of a label, so nothing matches", v).
				WithFix("use up to 63 letters, digits, -, _ and ., beginning and ending with a letter or digit")
		}
		s = append(s, network.Requirement{Key: k, Op: network.In, Values: []string{v}})
	}
	for _, e := range n.Field("matchExpressions").Items() {
		if r, ok := requirement(e); ok {
			s = append(s, r)
		}
	}
	return s, true
}

func requirement(e Node) (network.Requirement, bool) {
	var r network.Requirement
	if !e.Known("key", "operator", "values") {
		if !e.Has() {
			e.Errorf("missing-field", "an item of matchExpressions is empty").WithFix("give key and operator, or remove it")
		}
		return r, false
	}
	key, ok := e.Field("key").Text()
	if !ok || key == "" {
		if !e.Field("key").Has() || key == "" && ok {
			e.Errorf("missing-field", "a matchExpressions item needs a key")
		}
		return r, false
	}
	op := e.Field("operator")
	if !op.Has() {
		e.Errorf("missing-field", "the matchExpressions item for %s needs an operator", key).
			WithFix("one of In, NotIn, Exists, DoesNotExist")
		return r, false
	}
	word, ok := op.OneOf("In", "NotIn", "Exists", "DoesNotExist")
	if !ok {
		return r, false
	}
	r = network.Requirement{Key: key, Op: operators[word], Values: e.Field("values").Strings()}
	values := e.Field("values")
	switch needs := r.Op == network.In || r.Op == network.NotIn; {
	case needs && values.Len() == 0:
		e.Errorf("missing-field", "operator %s for %s needs values", word, key).WithFix("list them, or use Exists")
		return r, false
	case !needs && values.Len() > 0:
		values.Errorf("unknown-field", "operator %s for %s takes no values", word, key).WithFix("remove them, or use In")
		return r, false
	}
	return r, true
}

// ValidLabelValue reports whether v can be the value of a label.
func ValidLabelValue(v string) bool {
	if v == "" {
		return true
	}
	return len(v) <= 63 && alphanumeric(v[0]) && alphanumeric(v[len(v)-1]) &&
		strings.IndexFunc(v, func(r rune) bool {
			return r > 127 || !alphanumeric(byte(r)) && r != '-' && r != '_' && r != '.'
		}) < 0
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
