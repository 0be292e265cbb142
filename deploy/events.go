package deploy

import "time"

// Step is one step of the transaction, in the words of the documentation.
type Step string

const (
	StepLock       Step = "lock"
	StepSettle     Step = "settle" // an open journal of an earlier run
	StepVerify     Step = "verify"
	StepPlan       Step = "plan"
	StepStage      Step = "stage"
	StepRehearse   Step = "rehearse"
	StepJournal    Step = "journal"
	StepCommit     Step = "commit"
	StepReload     Step = "reload"
	StepProve      Step = "prove"
	StepAsk        Step = "ask"       // what Postfix has in effect, of a change that is about no certificate
	StepCompanions Step = "companion" // other daemons that serve the same certificate
	StepConfirm    Step = "confirm"
	StepUndo       Step = "undo"
	StepRestore    Step = "restore" // reload or restart after the undo
	StepReprove    Step = "reprove" // the baseline is served again
)

// Event reports the beginning or the end of a step to whoever draws progress.
type Event struct {
	Step   Step
	Begin  bool
	Took   time.Duration // at the end
	Detail string        // a few words about what was done
	Err    error         // at the end, when the step failed
}

// recorder runs steps, reports them and remembers the ended ones.
type recorder struct {
	progress func(Event)
	steps    []Event
}

// step runs f as step s. f returns a few words about what it did.
func (r *recorder) step(s Step, f func() (string, error)) error {
	r.tell(Event{Step: s, Begin: true})
	start := time.Now()
	detail, err := f()
	e := Event{Step: s, Took: time.Since(start), Detail: detail, Err: err}
	r.steps = append(r.steps, e)
	r.tell(e)
	return err
}

func (r *recorder) tell(e Event) {
	if r.progress != nil {
		r.progress(e)
	}
}
