package render

import (
	"bulkhead/mesh/report"
)

// Up is what a platform is that was just started.
type Up struct {
	Status *report.Status
	// Grants is who may talk to whom.
	Grants []report.Grant
	// Next are commands to type, each with what it shows.
	Next []Next
}

// Next is a command that makes sense now.
type Next struct{ Command, Says string }
