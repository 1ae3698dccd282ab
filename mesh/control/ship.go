package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"bulkhead/mesh/flow"
)

// Limits of the stream of flow records: whichever is reached first.
const (
	maxFlowBytes = 1 << 30
	maxFlowAge   = 7 * 24 * time.Hour
	// Records travel together: at most this many and, by their text, this much.
	maxBatch     = 512
	maxBatchSize = 256 << 10
)

// openFlows makes the stream of flow records if it is not there.
func (b *Bus) openFlows(ctx context.Context) error {
	c := jetstream.StreamConfig{Name: b.n.flows, Description: "flow records of a bulkhead platform",
		Subjects: []string{b.n.flowSubject + "*"}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxBytes: maxFlowBytes, MaxAge: maxFlowAge, Replicas: b.replicas()}
	_, err := b.js.CreateStream(ctx, c)
	if err != nil && c.Replicas > 1 && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		c.Replicas = 1
		_, err = b.js.CreateStream(ctx, c)
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil // an operator may have given it other limits
	}
	return err
}

// Ship carries a node's flow records to the bus until ctx ends. The log is the
// queue: when the bus is slower or away for longer than it holds, the record after
// the gap says how many were lost. Nothing waits for the bus.
func (c *Client) Ship(ctx context.Context, records *flow.Log) error {
	queue := make(chan flow.Record)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for r := range records.Follow(ctx, 1) {
			select {
			case queue <- r:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return ctx.Err()
	})
	g.Go(func() error { return c.ship(ctx, queue) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// ship publishes what is in the queue, as many records at a time as there are.
func (c *Client) ship(ctx context.Context, queue <-chan flow.Record) error {
	boot := nuid.Next() // the numbers of records begin anew with each start
	for n := 0; ; n++ {
		var batch bytes.Buffer
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-queue:
			c.pack(&batch, r)
		}
		// A sender that follows closely gets its turn before the batch goes.
		for more, until := 1, time.After(shipPause); more < maxBatch && batch.Len() < maxBatchSize; more++ {
			select {
			case r := <-queue:
				c.pack(&batch, r)
				continue
			case <-until:
			case <-ctx.Done():
				return ctx.Err()
			}
			break
		}
		if err := c.send(ctx, fmt.Sprintf("%s/%s/%d", c.node, boot, n), batch.Bytes()); err != nil {
			return err
		}
	}
}

// shipPause is how long a record waits for others.
const shipPause = 20 * time.Millisecond

func (c *Client) pack(batch *bytes.Buffer, r flow.Record) {
	r.Node = c.o.Credential.Node
	line, err := json.Marshal(r)
	if err != nil {
		c.o.Log.Error("a flow record cannot be written", "id", r.ID, "error", err)
		return
	}
	batch.Write(append(line, '\n'))
}

// send publishes until the bus has it. The id keeps what is sent twice from being
// kept twice.
func (c *Client) send(ctx context.Context, id string, data []byte) error {
	for attempt := 0; ; attempt++ {
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		_, err := c.o.Bus.js.Publish(ask, c.n.flowSubject+c.node, data, jetstream.WithMsgID(id))
		cancel()
		if err == nil {
			return nil
		}
		if attempt == 0 {
			c.o.Log.Warn("flow records wait for the bus", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause(attempt)):
		}
	}
}

// Flows yields the flow records of all nodes since a time, the zero time for all
// that are kept, and with follow those to come until ctx ends. An error is the
// last that it yields.
func (b *Bus) Flows(ctx context.Context, since time.Time, follow bool) iter.Seq2[flow.Record, error] {
	return func(yield func(flow.Record, error) bool) {
		if err := b.eachFlow(ctx, since, follow, yield); err != nil && ctx.Err() == nil {
			yield(flow.Record{}, fmt.Errorf("the flow records: %w", err))
		}
	}
}

// eachFlow returns an error only while the caller still listens.
func (b *Bus) eachFlow(ctx context.Context, since time.Time, follow bool, yield func(flow.Record, error) bool) error {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	stream, err := b.js.Stream(ask, b.n.flows)
	if err != nil {
		return err
	}
	state := stream.CachedInfo().State
	if !follow && (state.Msgs == 0 || state.LastTime.Before(since)) {
		return nil
	}
	config := jetstream.OrderedConsumerConfig{}
	if !since.IsZero() {
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	consumer, err := stream.OrderedConsumer(ask, config)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		msg, err := messages.Next()
		if err != nil {
			return err
		}
		if !b.eachLine(msg, yield) {
			return nil
		}
		if meta, err := msg.Metadata(); err == nil && !follow && meta.Sequence.Stream >= state.LastSeq {
			return nil
		}
	}
}

// eachLine yields the records of a message, and reports whether the caller wants
// more.
func (b *Bus) eachLine(msg jetstream.Msg, yield func(flow.Record, error) bool) bool {
	node := strings.TrimPrefix(msg.Subject(), b.n.flowSubject)
	for line := range bytes.Lines(msg.Data()) {
		var r flow.Record
		if json.Unmarshal(line, &r) != nil {
			continue
		}
		// What a node says in the name of another does not count: the subject is
		// where the bus let it write.
		if t, err := token(r.Node); err != nil || t != node {
			continue
		}
		if !yield(r, nil) {
			return false
		}
	}
	return true
}
