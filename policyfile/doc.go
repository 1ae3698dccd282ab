// Package policyfile is the text form of a policy: YAML to [policy.Policy] and
// back, the formatter, the catalogue of destinations and of the services that a
// private endpoint can lead to, and the JSON Schema.
//
// One table, in language.go, says what the language is: which sections and
// keys there are, in which order they are written, what each value may be and
// what it means. The check for unknown keys, the formatter and the schema all
// follow it, so they cannot disagree.
//
// It promises that
//
//   - every value of a parsed policy knows its file, line and column;
//   - all mistakes of shape and syntax are reported at once, each with the
//     place, the object, and what to write instead;
//   - nothing is skipped: a key that is not known, a value that is given
//     twice, a character that does not show are errors;
//   - [Format] and [Marshal] never change what a policy means and lose no
//     comment.
//
// It checks a policy as text only. Whether a name refers to something, whether
// an access fits its protocol and whether a permission is still in force is
// for core/policy to say; only a service of a provider must be one of the table,
// which gives its hosts. The package reads and writes no files.
//
// The danger is in what a reader does not see. Anchors, tags and merge keys
// are refused, since they make the text mean something that is written
// elsewhere; so are control characters, bidirectional overrides and unusual
// line breaks anywhere, comments included, since an editor may show the text
// in another order or on other lines than the parser reads it.
package policyfile
