// Package verify compares what is declared with what is deployed, and either
// with what is always wrong.
//
//   - [Check] holds an intent against the invariants.
//   - [Audit] holds an estate against good practice, with no policy at all.
//   - [Verify] holds an estate against an intent: every leak, every broken
//     flow, everything that could not be proven.
//   - [Diff] compares two estates, [DiffIntents] two intents.
//
// All of them return findings that carry witnesses. What the input does not
// decide is reported as such and never counted as in order.
package verify
