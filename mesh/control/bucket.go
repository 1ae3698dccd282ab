package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bulkhead/mesh/generation"
)

// An order and the parts of its plan lie in a KV bucket. Whoever watches the
// order listens to the subject on which the bucket gets it: an order is then seen
// as soon as it is sent, also when the bucket cannot write.

const (
	// partSize is how much of a plan goes into one message, after a byte that
	// says whether there is more. maxParts bounds what a node fetches.
	partSize = 512 << 10
	maxParts = 1024
	// What control answers with is encrypted and written as text on its way.
	askedPartSize = 256 << 10
	// spare is what a message may be shorter than the bus allows.
	spare = 4 << 10
)

// openBucket returns the bucket, which it makes if it is not there.
func (b *Bus) openBucket(ctx context.Context) (jetstream.KeyValue, error) {
	kv, err := b.js.KeyValue(ctx, b.n.bucket)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	c := jetstream.KeyValueConfig{Bucket: b.n.bucket, Description: "generations of a bulkhead platform",
		History: 1, Storage: jetstream.FileStorage, Replicas: b.replicas()}
	kv, err = b.js.CreateKeyValue(ctx, c)
	if err != nil && c.Replicas > 1 {
		c.Replicas = 1 // a cluster that has no room for three
		kv, err = b.js.CreateKeyValue(ctx, c)
	}
	return kv, err
}

// replicas is how many copies a bus keeps: three in a cluster.
func (b *Bus) replicas() int {
	if b.nc.ConnectedClusterName() == "" {
		return 1
	}
	return 3
}

// putPlan stores a plan in parts.
func (b *Bus) putPlan(ctx context.Context, kv jetstream.KeyValue, digest string, packed []byte) error {
	size := min(partSize, int(b.nc.MaxPayload())-spare)
	if size <= 0 {
		return fmt.Errorf("the bus takes messages of %d bytes, which is too little", b.nc.MaxPayload())
	}
	for part := 0; ; part++ {
		data, err := planPart(packed, part, size)
		if err != nil {
			return err
		}
		if _, err := kv.Put(ctx, planKey(digest, part), data); err != nil {
			return fmt.Errorf("part %d of plan %.12s: %w", part, digest, err)
		}
		if data[0] == 0 {
			return nil
		}
	}
}

// planPart returns a part of a plan as it travels: a byte that says whether there
// is more, and the part.
func planPart(packed []byte, part, size int) ([]byte, error) {
	parts := max(1, (len(packed)+size-1)/size)
	if part < 0 || part >= parts || part >= maxParts {
		return nil, fmt.Errorf("a plan of %d bytes has no part %d", len(packed), part)
	}
	more := byte(0)
	if part < parts-1 {
		more = 1
	}
	return append([]byte{more}, packed[part*size:min(len(packed), (part+1)*size)]...), nil
}

// errNothing says that the bus has no such value.
var errNothing = errors.New("the bus does not have it")

// get reads a value without asking for more rights than to read it.
func (b *Bus) get(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	msg, err := b.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET.KV_"+b.n.bucket+".$KV."+b.n.bucket+"."+key, nil)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, errNothing
	}
	if err != nil {
		return nil, err
	}
	switch status := msg.Header.Get("Status"); status {
	case "":
		return msg.Data, nil
	case "404":
		return nil, errNothing
	default:
		return nil, fmt.Errorf("the bus answers %s %s", status, msg.Header.Get("Description"))
	}
}

// getPlan fetches a plan that a signed order names.
func (b *Bus) getPlan(ctx context.Context, digest string) ([]byte, *generation.Plan, error) {
	return joinPlan(digest, func(part int) ([]byte, error) { return b.get(ctx, planKey(digest, part)) })
}

// joinPlan puts a plan together. What comes is believed only when all of it has
// the digest.
func joinPlan(digest string, get func(part int) ([]byte, error)) (packed []byte, plan *generation.Plan, err error) {
	for part := range maxParts {
		data, err := get(part)
		if err == nil && len(data) == 0 {
			err = errors.New("it is empty")
		}
		if err != nil {
			return nil, nil, fmt.Errorf("part %d of plan %.12s: %w", part, digest, err)
		}
		packed = append(packed, data[1:]...)
		if data[0] == 0 {
			plan, err = generation.Unpack(packed, digest)
			return packed, plan, err
		}
	}
	return nil, nil, fmt.Errorf("plan %.12s has more than %d parts", digest, maxParts)
}

// dropPlans removes the plans that no order needs any more.
func (b *Bus) dropPlans(ctx context.Context, digests []string) error {
	if len(digests) == 0 {
		return nil
	}
	stream, err := b.js.Stream(ctx, "KV_"+b.n.bucket)
	if err != nil {
		return err
	}
	for _, d := range digests {
		err = errors.Join(err, stream.Purge(ctx, jetstream.WithPurgeSubject("$KV."+b.n.bucket+".plan."+d+".>")))
	}
	return err
}
