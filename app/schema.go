package app

import "bulkhead/policyfile"

// Schema returns the JSON Schema of the policy language.
func Schema() []byte { return policyfile.Schema() }
