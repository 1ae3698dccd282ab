package report

import "time"

// Outcome says how a case of a probe went.
type Outcome string

// The outcomes.
const (
	// AsExpected is what the policy says, with evidence.
	AsExpected Outcome = "expected"
	// Surprise is anything else: something got through, something permitted was
	// refused, or a refusal that nobody can account for.
	Surprise Outcome = "surprise"
	// Broken is permitted, was refused by no policy, and did not come about: the
	// server is down, or the workload runs nowhere.
	Broken Outcome = "broken"
	// Untried proves nothing in either direction.
	Untried Outcome = "untried"
)

// Probe is what an attack on a running platform found.
type Probe struct {
	ProbeHead
	Took time.Duration `json:"took_ns"`
	// Clean says that there was no surprise and that all that is permitted works.
	Clean   bool          `json:"clean"`
	Counts  []ProbeCount  `json:"counts"`
	Results []ProbeResult `json:"results"`
}

// ProbeHead is known before the first result.
type ProbeHead struct {
	Platform   string    `json:"platform"`
	Node       string    `json:"node"`
	Mode       string    `json:"mode"`
	Generation uint64    `json:"generation"`
	Started    time.Time `json:"started"`
	// Cases is how many results there will be.
	Cases int `json:"cases"`
}

// ProbeResult is one case: what the policy says, what happened, and what shows it.
type ProbeResult struct {
	// Number is its place in the plan, from 1; ID is the probe id of its flow
	// records.
	Number int    `json:"number"`
	ID     string `json:"id"`
	Kind   string `json:"kind"`
	// Title is what all cases of the kind are, Name what this one is.
	Title string `json:"title"`
	Name  string `json:"name"`
	// Attack says that it is no pair of the policy: it must fail whatever the
	// policy says.
	Attack bool   `json:"attack,omitempty"`
	From   string `json:"from"`
	To     string `json:"to,omitempty"`
	// Expected is allowed or refused, Policy why.
	Expected string  `json:"expected"`
	Policy   string  `json:"policy"`
	Outcome  Outcome `json:"outcome"`
	// Observed is what the attacker saw.
	Observed string          `json:"observed"`
	Evidence []ProbeEvidence `json:"evidence,omitempty"`
	// Says is why the outcome is not the expected one.
	Says string        `json:"says,omitempty"`
	Took time.Duration `json:"took_ns"`
}

// ProbeEvidence is a flow record of the case.
type ProbeEvidence struct {
	Event      string `json:"event"`
	Side       string `json:"side"`
	Verdict    string `json:"verdict"`
	Rule       string `json:"rule,omitempty"`
	Generation uint64 `json:"generation"`
	Why        string `json:"why,omitempty"`
	Method     string `json:"method,omitempty"`
	Status     int    `json:"status,omitempty"`
}

// ProbeCount sums up the cases of a kind.
type ProbeCount struct {
	Kind       string `json:"kind"`
	Title      string `json:"title"`
	Attack     bool   `json:"attack,omitempty"`
	Cases      int    `json:"cases"`
	AsExpected int    `json:"expected"`
	Surprises  int    `json:"surprises,omitempty"`
	Broken     int    `json:"broken,omitempty"`
	Untried    int    `json:"untried,omitempty"`
}

// ProbeEnd ends a stream of results. Without it the stream was cut, and proves
// nothing.
type ProbeEnd struct {
	Took time.Duration `json:"took_ns"`
	// Problem says why the probe is not complete, empty if it is.
	Problem string `json:"problem,omitempty"`
}

// ProbeEvent is a line of a stream: first a head, then results, then an end.
type ProbeEvent struct {
	Head   *ProbeHead   `json:"head,omitempty"`
	Result *ProbeResult `json:"result,omitempty"`
	End    *ProbeEnd    `json:"end,omitempty"`
}

// Add takes the next result.
func (p *Probe) Add(r ProbeResult) {
	p.Results = append(p.Results, r)
	i := 0
	for i < len(p.Counts) && p.Counts[i].Kind != r.Kind {
		i++
	}
	if i == len(p.Counts) {
		p.Counts = append(p.Counts, ProbeCount{Kind: r.Kind, Title: r.Title, Attack: r.Attack})
	}
	c := &p.Counts[i]
	c.Cases++
	switch r.Outcome {
	case AsExpected:
		c.AsExpected++
	case Broken:
		c.Broken++
	case Untried:
		c.Untried++
	default:
		c.Surprises++
	}
}

// IsClean reports whether every result so far is as expected, or could not be
// tried. It takes one that is as expected at least.
func (p *Probe) IsClean() bool {
	proved := false
	for _, c := range p.Counts {
		if c.Surprises > 0 || c.Broken > 0 {
			return false
		}
		proved = proved || c.AsExpected > 0
	}
	return proved
}
