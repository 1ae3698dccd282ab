// Package kube reads what all Kubernetes objects have in common: type and
// metadata, lists of objects, label selectors, and fields whose names and
// types are checked the way the API server checks them.
//
// It is a leaf: the targets that read Kubernetes objects build on it and know
// nothing of each other. It keeps no reference to a document beyond the
// [Object] or [Node] that the caller holds.
//
// A field that is not known is an error with the nearest known name, never a
// field that is skipped: a misspelt restriction restricts nothing.
package kube
