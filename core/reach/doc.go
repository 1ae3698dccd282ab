// Package reach answers what can reach what in a network: for every pair of
// parties the exact traffic that passes all layers along all paths.
//
// It works on classes, not on endpoints: parties that no predicate of any
// layer tells apart are one class, and an answer for classes is expanded only
// where it is asked for. Verdicts have three values: what passes is Allow,
// what the input does not decide is Unknown, everything else is denied.
// Unknown is never allowed.
//
// The package is pure and single-threaded. An [Analysis] is read only after
// it was made, except for memo tables: it belongs to one goroutine.
//
// The steps, in the order of the files: parties and their classes
// (classes.go), what each class's rules let through to each other class
// (rows.go, evaluate.go), composition along paths (compose.go), enumeration
// (edges.go), questions with witnesses (explain.go), walks over chains of
// connections (spread.go), and how flat an estate is (flatness.go).
package reach
