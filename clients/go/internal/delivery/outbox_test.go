package delivery

import (
	"slices"
	"testing"
)

func outbox(window Window, sizes ...int) *Outbox[int] {
	o := NewOutbox[int](0)
	o.Window = window
	for n, size := range sizes {
		o.Append(n+1, size)
	}
	return o
}

func take(t *testing.T, o *Outbox[int], size int, first uint64, items ...int) {
	t.Helper()
	gotFirst, got := o.Take(size, 0)
	if !slices.Equal(got, items) || (len(items) > 0 && gotFirst != first) {
		t.Fatalf("Take(%d) gave %v from %d, not %v from %d", size, got, gotFirst, items, first)
	}
}

func TestItemsAreNumberedFromOneAndGoInBatchesOfASize(t *testing.T) {
	o := outbox(Window{100, 1000}, 4, 4, 4, 50, 4)
	take(t, o, 10, 1, 1, 2)
	take(t, o, 10, 3, 3)
	take(t, o, 10, 4, 4) // larger than a batch, so alone
	take(t, o, 10, 5, 5)
	take(t, o, 10, 0)
}

func TestTheWindowOfMessagesHoldsBack(t *testing.T) {
	o := outbox(Window{2, 1000}, 1, 1, 1)
	if o.HasRoom() {
		t.Error("there is room for a fourth")
	}
	take(t, o, 100, 1, 1, 2)
	take(t, o, 100, 0)
	ack(t, o, 1)
	take(t, o, 100, 3, 3)
}

func TestTheWindowOfBytesHoldsBackAndLetsOneOfAnySizeGoAlone(t *testing.T) {
	o := outbox(Window{100, 10}, 50, 4, 6, 1)
	if o.HasRoom() {
		t.Error("there is room although the bytes are used up")
	}
	take(t, o, 100, 1, 1)
	take(t, o, 100, 0)
	ack(t, o, 1)
	take(t, o, 100, 2, 2, 3)
	take(t, o, 100, 0)
	ack(t, o, 2)
	take(t, o, 100, 4, 4)
}

func TestAnAckForgetsAndOneOfWhatWasNotSentIsRefused(t *testing.T) {
	o := outbox(Window{10, 1000}, 1, 1, 1)
	take(t, o, 2, 1, 1, 2)
	if err := o.Ack(3); err == nil {
		t.Error("an ack of an item that was not written is taken")
	}
	ack(t, o, 2)
	ack(t, o, 1) // lower than before: ignored
	if o.Acked() != 2 || o.Last() != 3 || !o.Waiting() {
		t.Errorf("acked %d, last %d, waiting %v", o.Acked(), o.Last(), o.Waiting())
	}
}

func TestAResumeSendsAgainWhatThePeerHasNot(t *testing.T) {
	o := outbox(Window{10, 1000}, 1, 1, 1, 1)
	take(t, o, 3, 1, 1, 2, 3)
	resume(t, o, 1)
	take(t, o, 100, 2, 2, 3, 4)
	resume(t, o, 1) // nothing arrived
	take(t, o, 1, 2, 2)
	resume(t, o, 4) // all of it had arrived by the stream before
	take(t, o, 100, 0)
	if o.Acked() != 4 {
		t.Errorf("acked %d", o.Acked())
	}
}

func TestAReplayObeysTheWindow(t *testing.T) {
	o := outbox(Window{10, 1000}, 1, 1, 1)
	take(t, o, 100, 1, 1, 2, 3)
	o.Window = Window{1, 1000}
	resume(t, o, 0)
	take(t, o, 100, 1, 1)
	take(t, o, 100, 0)
}

func TestThereIsNothingToResumeFromBelowTheAckOrAboveWhatWasSent(t *testing.T) {
	o := outbox(Window{10, 1000}, 1, 1, 1)
	take(t, o, 2, 1, 1, 2)
	ack(t, o, 1)
	for _, received := range []uint64{0, 3} {
		if err := o.Resume(received); err == nil {
			t.Errorf("resumes from %d", received)
		}
	}
	take(t, o, 2, 3, 3) // and nothing has changed
}

func ack(t *testing.T, o *Outbox[int], sequence uint64) {
	t.Helper()
	if err := o.Ack(sequence); err != nil {
		t.Fatal(err)
	}
}

func resume(t *testing.T, o *Outbox[int], received uint64) {
	t.Helper()
	if err := o.Resume(received); err != nil {
		t.Fatal(err)
	}
}
