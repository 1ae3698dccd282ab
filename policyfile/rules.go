package policyfile

// The rules that a text can break. Each has an example below testdata/err.
// Those about YAML itself are in internal/yamldoc.
const (
	ruleAddress     = "address"
	ruleBudget      = "budget"
	ruleConflict    = "conflicting-value"
	ruleDate        = "date"
	ruleDocuments   = "one-document"
	ruleDupKey      = "duplicate-key"
	ruleDupName     = "duplicate-name"
	ruleEmpty       = "empty"
	ruleHidden      = "hidden-character"
	ruleHost        = "host-name"
	ruleMissing     = "missing-key"
	ruleName        = "name"
	ruleNoPolicy    = "no-policy"
	rulePort        = "port"
	ruleProxy       = "proxy"
	ruleRate        = "rate"
	ruleReference   = "reference"
	ruleRequest     = "request"
	ruleTooLong     = "too-long"
	ruleTooMany     = "too-many-errors"
	ruleTrustDomain = "trust-domain"
	ruleService     = "unknown-service"
	ruleUnknownKey  = "unknown-key"
	ruleValue       = "value"
	ruleType        = "wrong-type"
)
