package delivery

import "fmt"

// Outbox numbers items, keeps them until they are acknowledged, and gives out what the window lets go.
type Outbox[T any] struct {
	// Window is what the peer granted; a resume may change it.
	Window Window

	items queue[T]
	acked uint64 // everything up to here is gone; items begin after it

	// How much of items has been written on the current stream, or is known to have arrived on an earlier one.
	sent      int
	sentBytes int

	highest uint64 // of all streams: no peer can have received more
}

// NewOutbox begins after acked: where another process goes on. It has no window before its first stream.
func NewOutbox[T any](acked uint64) *Outbox[T] {
	return &Outbox[T]{acked: acked, highest: acked}
}

// Acked returns the last acknowledged sequence.
func (o *Outbox[T]) Acked() uint64 { return o.acked }

// Sent returns the last sequence that was written on the current stream.
func (o *Outbox[T]) Sent() uint64 { return o.acked + uint64(o.sent) }

// Last returns the sequence of the newest item, 0 before the first.
func (o *Outbox[T]) Last() uint64 { return o.acked + uint64(o.items.len()) }

// First returns the oldest item that is not acknowledged; a sequence of 0 where there is none.
func (o *Outbox[T]) First() (sequence uint64, size int) {
	if o.items.len() == 0 {
		return 0, 0
	}
	return o.acked + 1, o.items.entries[0].size
}

// Waiting reports whether something has not been written on the current stream.
func (o *Outbox[T]) Waiting() bool { return o.sent < o.items.len() }

// HasRoom reports whether Append may be called. The last item may overdraw the bytes, since its size is known only once
// it is encoded; Take lets it go when the window has room for it.
func (o *Outbox[T]) HasRoom() bool {
	return o.Window.hasRoom(o.items.len(), o.items.bytes)
}

// Append adds an item of size bytes.
func (o *Outbox[T]) Append(item T, size int) {
	o.items.push(entry[T]{item, size})
}

// Take gives out what may be written now, as one batch of at most size bytes, of which each item takes framing bytes
// beside its own; a larger first item comes alone. The caller writes it next. It returns no items when the window, or the outbox, has no more.
func (o *Outbox[T]) Take(size, framing int) (first uint64, batch []T) {
	first = o.Sent() + 1
	for o.Waiting() {
		next := o.items.entries[o.sent]
		if !o.Window.fits(o.sent, o.sentBytes, next.size) || (len(batch) > 0 && next.size+framing > size) {
			break
		}
		batch = append(batch, next.item)
		size -= next.size + framing
		o.sent++
		o.sentBytes += next.size
	}
	o.highest = max(o.highest, o.Sent())
	return first, batch
}

// Ack forgets everything up to a sequence. A lower one than before is ignored (F6); one that was not written on this
// stream is an error (D3).
func (o *Outbox[T]) Ack(sequence uint64) error {
	if sequence > o.Sent() {
		return fmt.Errorf("ack %d is beyond what was sent (%d)", sequence, o.Sent())
	}
	for o.acked < sequence {
		o.sentBytes -= o.items.pop().size
		o.sent--
		o.acked++
	}
	return nil
}

// Resume begins a new stream whose peer has everything up to received: what comes after is sent again. Below what was
// acknowledged, or above what was ever sent, there is nothing to go on from.
func (o *Outbox[T]) Resume(received uint64) error {
	if received < o.acked || received > o.highest {
		return fmt.Errorf("cannot go on after %d: only %d to %d are kept", received, o.acked, o.highest)
	}
	o.sent = int(received - o.acked)
	o.sentBytes = 0
	for _, e := range o.items.entries[:o.sent] {
		o.sentBytes += e.size
	}
	return o.Ack(received)
}
