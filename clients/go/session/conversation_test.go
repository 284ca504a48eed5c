package session

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/session-service/session-service/clients/go/internal/payload"
	pb "github.com/session-service/session-service/clients/go/sessionpb"
)

// talking returns a conversation whose open was answered with these windows.
func talking(t *testing.T, resumable bool, events, commands *pb.Window) *conversation {
	t.Helper()
	c := newConversation(&pb.Open{App: "app", Resumable: resumable, ClientId: "client"})
	c.firstRequest()
	mustTake(t, c, &pb.AttachResponse{Control: &pb.AttachResponse_Opened{Opened: &pb.Opened{
		SessionId: "s-1", ResumeToken: "token", Limits: &pb.Limits{EventWindow: events, CommandWindow: commands},
	}}})
	return c
}

func mustTake(t *testing.T, c *conversation, response *pb.AttachResponse) {
	t.Helper()
	if err := take(c, response); err != nil {
		t.Fatal(err)
	}
}

func take(c *conversation, response *pb.AttachResponse) error {
	data, err := proto.Marshal(response)
	if err != nil {
		return err
	}
	return c.receive(data)
}

func send(t *testing.T, c *conversation, data any) bool {
	t.Helper()
	event, size, err := payload.EncodeEvent("e", "", data)
	if err != nil {
		t.Fatal(err)
	}
	sent, err := c.send(event, size)
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

// next returns what the conversation writes next; nil where nothing is due.
func next(t *testing.T, c *conversation) *pb.AttachRequest {
	t.Helper()
	return nextWith(t, c, false, false)
}

func nextWith(t *testing.T, c *conversation, ack, heartbeat bool) *pb.AttachRequest {
	t.Helper()
	data, due := c.nextRequest(ack, heartbeat)
	if !due {
		return nil
	}
	request := &pb.AttachRequest{}
	if err := proto.Unmarshal(data, request); err != nil {
		t.Fatal(err)
	}
	return request
}

func commands(first uint64, count int) *pb.AttachResponse {
	response := &pb.AttachResponse{FirstSequence: first}
	for range count {
		response.Commands = append(response.Commands, &pb.Command{Command: "c", Payload: &pb.Command_Json{Json: "1"}})
	}
	return response
}

func closed(sequence uint64, reason pb.CloseReason) *pb.AttachResponse {
	return &pb.AttachResponse{Control: &pb.AttachResponse_Closed{Closed: &pb.Closed{Reason: reason, Sequence: sequence}}}
}

func TestNothingFollowsTheFirstRequestBeforeItIsAnswered(t *testing.T) {
	c := newConversation(&pb.Open{App: "app", Resumable: true})
	c.firstRequest()
	if got := nextWith(t, c, true, true); got != nil {
		t.Errorf("writes %v", got)
	}
}

func TestEventsGoInOneBatchOfASize(t *testing.T) {
	c := talking(t, true, nil, nil)
	for _, data := range []any{1, 2, make([]byte, 300_000), 4} {
		send(t, c, data)
	}
	var firsts []uint64
	var counts []int
	for request := next(t, c); request != nil; request = next(t, c) {
		firsts, counts = append(firsts, request.FirstSequence), append(counts, len(request.Events))
	}
	if !slices.Equal(firsts, []uint64{1, 3, 4}) || !slices.Equal(counts, []int{2, 1, 1}) {
		t.Errorf("batches of %v from %v", counts, firsts)
	}
}

func TestNoMessageOfManyEventsIsLargerThanTheServerTakes(t *testing.T) {
	for _, resumable := range []bool{false, true} {
		for limit, most := range map[uint32]int{65536: 65536, 4_000_000: 256 << 10} {
			for _, eventSize := range []int{10, 130, 20_000} {
				c := talking(t, resumable, &pb.Window{Messages: 100_000, Bytes: 1 << 20}, nil)
				c.maxMessage = int(limit)
				for range 600_000 / eventSize {
					send(t, c, make([]byte, eventSize-5))
				}
				c.close(strings.Repeat("€", 1000), false)
				for request := next(t, c); request != nil; request = next(t, c) {
					if size := proto.Size(request); size > most {
						t.Errorf("limit %d, events of %d bytes: a message of %d bytes", limit, eventSize, size)
					}
				}
			}
		}
	}
}

func TestASuspiciousEventGoesAloneUntilItIsAcknowledged(t *testing.T) {
	c := talking(t, true, nil, nil)
	for data := range 3 {
		send(t, c, data)
	}
	c.suspicious = true
	if got := next(t, c); got.GetFirstSequence() != 1 || len(got.GetEvents()) != 1 {
		t.Errorf("got %v", got)
	}
	if got := next(t, c); got != nil {
		t.Errorf("before its ack there is %v", got)
	}
	mustTake(t, c, &pb.AttachResponse{Ack: 1})
	c.suspicious = false
	if got := next(t, c); got.GetFirstSequence() != 2 || len(got.GetEvents()) != 2 {
		t.Errorf("then there is %v", got)
	}
}

func TestEventsOfTheTimeBetweenStreamsWaitForTheNext(t *testing.T) {
	c := talking(t, true, nil, nil)
	send(t, c, 1)
	next(t, c)
	c.firstRequest()
	send(t, c, 2)
	mustTake(t, c, &pb.AttachResponse{Control: &pb.AttachResponse_Resumed{Resumed: &pb.Resumed{}}})
	if got := next(t, c); got.FirstSequence != 1 || len(got.Events) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestMoreCommandsThanTheWindowGrantsBreakTheStream(t *testing.T) {
	c := talking(t, true, nil, &pb.Window{Messages: 2})
	if err := take(c, commands(1, 3)); err == nil {
		t.Error("takes them")
	}
	if expected := c.inbox.Expected(); expected != 3 {
		t.Errorf("expects %d: it has lost those that the window had room for", expected)
	}
}

func TestCloseDoesNotOvertakeEventsThatWaitForTheWindow(t *testing.T) {
	c := talking(t, true, &pb.Window{Messages: 10}, nil)
	send(t, c, 1)
	send(t, c, 2)
	c.outbox.Window.Messages = 1 // as a resume may grant less
	c.close("", false)
	if got := next(t, c); len(got.Events) != 1 || got.GetClose() != nil {
		t.Errorf("first %v", got)
	}
	mustTake(t, c, &pb.AttachResponse{Ack: 1})
	if got := next(t, c); len(got.Events) != 1 || got.GetClose() == nil {
		t.Errorf("then %v", got)
	}
	if got := next(t, c); got != nil {
		t.Errorf("and then %v", got)
	}
}

func TestCloseNowGoesAtOnceAndAfterAGracefulOne(t *testing.T) {
	c := talking(t, true, &pb.Window{Messages: 10}, nil)
	c.close("first", false)
	if got := next(t, c).GetClose(); got.GetNow() {
		t.Errorf("first %v", got)
	}
	c.close("second", true)
	if got := next(t, c).GetClose(); !got.GetNow() || got.Reason != "second" {
		t.Errorf("then %v", got)
	}
	c.close("third", true)
	c.close("fourth", false)
	if got := next(t, c); got != nil {
		t.Errorf("and then %v", got)
	}
}

func TestAReasonIsCutAndMadeUTF8(t *testing.T) {
	c := talking(t, true, nil, nil)
	c.close("\xff"+strings.Repeat("ä", 2000), false)
	if got := []rune(next(t, c).GetClose().Reason); len(got) != 1000 || got[0] != '\ufffd' || got[999] != 'ä' {
		t.Errorf("got %d characters", len(got))
	}
}

func TestClosedComesAfterEveryCommandAndIsAcknowledgedWhenItIsReached(t *testing.T) {
	c := talking(t, true, nil, nil)
	mustTake(t, c, commands(1, 1))
	mustTake(t, c, closed(2, pb.CloseReason_CLOSE_REASON_SERVER))
	if c.closed == nil || c.closed.Reason != ByServer {
		t.Errorf("closed: %v", c.closed)
	}
	if _, ok := c.take(); !ok {
		t.Error("the command is gone")
	}
	if got := nextWith(t, c, true, false); got != nil || c.finished() {
		t.Errorf("writes %v, finished %v", got, c.finished())
	}
	if _, ok := c.take(); ok {
		t.Error("there is another command")
	}
	if got := nextWith(t, c, true, false); got.GetAck() != 2 || !c.finished() {
		t.Errorf("writes %v, finished %v", got, c.finished())
	}
	mustTake(t, c, closed(2, pb.CloseReason_CLOSE_REASON_SERVER)) // again: it is acknowledged again
	if got := nextWith(t, c, true, false); got.GetAck() != 2 {
		t.Errorf("writes %v", got)
	}
}

func TestAReasonOfANewerServerIsUnspecified(t *testing.T) {
	c := talking(t, true, nil, nil)
	mustTake(t, c, closed(1, 99))
	if c.closed.Reason != Unspecified || c.closed.Reason.String() != "UNSPECIFIED" {
		t.Errorf("got %v", c.closed.Reason)
	}
}

func TestAnAdoptedSessionClaimsNothingBeforeTheServerHasSaidIt(t *testing.T) {
	c := conversationAt(Position{SessionID: "s-1", Token: "token", Received: 3, Sent: 8}, nil, "client")
	if c.takenOver() != 0 {
		t.Errorf("taken over: %d", c.takenOver())
	}
	request := &pb.AttachRequest{}
	if err := proto.Unmarshal(c.firstRequest(), request); err != nil || request.GetResume().Received != 3 {
		t.Errorf("begins with %v, %v", request, err)
	}
	mustTake(t, c, &pb.AttachResponse{Control: &pb.AttachResponse_Resumed{Resumed: &pb.Resumed{Received: 6}}})
	if c.takenOver() != 6 || c.position().Sent != 6 {
		t.Errorf("taken over: %d, sent: %d", c.takenOver(), c.position().Sent)
	}
	if got := nextWith(t, c, true, false); got.GetAck() != 3 {
		t.Errorf("what was taken is not acknowledged again: %v", got)
	}
}

func TestNewLimitsComeWithEachStream(t *testing.T) {
	c := talking(t, true, &pb.Window{Messages: 1}, nil)
	if !send(t, c, 1) || send(t, c, 2) {
		t.Error("a window of 1 is no window of 1")
	}
	c.firstRequest()
	mustTake(t, c, &pb.AttachResponse{Control: &pb.AttachResponse_Resumed{Resumed: &pb.Resumed{
		Limits: &pb.Limits{EventWindow: &pb.Window{Messages: 2}, MaxMessageBytes: 1024 + 10},
	}}})
	if !send(t, c, 2) || send(t, c, 3) {
		t.Error("a window of 2 is no window of 2")
	}
	mustTake(t, c, &pb.AttachResponse{Control: nil})
	if sent, err := c.send(nil, 11); sent || err != nil {
		t.Errorf("the window is full, and it says %v, %v", sent, err)
	}
	for range 2 { // no message is larger than the limit
		if got := next(t, c); len(got.Events) != 1 {
			t.Errorf("got %v", got)
		}
	}
	mustTake(t, c, &pb.AttachResponse{Ack: 2})
	if sent, err := c.send(nil, 11); sent || err == nil {
		t.Error("keeps an event that no message can carry")
	}
}

func TestNoMessageIsLargerThanTheLimitGranted(t *testing.T) {
	const most = 50_000
	c := newConversation(&pb.Open{App: "app", Resumable: true})
	c.firstRequest()
	mustTake(t, c, &pb.AttachResponse{Control: &pb.AttachResponse_Opened{Opened: &pb.Opened{
		SessionId: "s-1", Limits: &pb.Limits{MaxMessageBytes: most},
	}}})
	sizes := []int{1, 20_000, 20_000, 20_000, most - messageOverhead - 20}
	for _, size := range sizes {
		if !send(t, c, make([]byte, size)) {
			t.Fatal("the window is full")
		}
	}
	c.close(strings.Repeat("ä", longestReason), false)
	events, closes := 0, 0
	for request := next(t, c); request != nil; request = next(t, c) {
		if size := proto.Size(request); size > most {
			t.Errorf("%d bytes", size)
		}
		events += len(request.Events)
		if request.GetClose() != nil {
			closes++
		}
	}
	if events != len(sizes) || closes != 1 {
		t.Errorf("%d events, %d closes", events, closes)
	}
}

func TestAPlainSessionNeverFillsItsWindowOnceItHasWritten(t *testing.T) {
	c := talking(t, false, &pb.Window{Messages: 2}, nil)
	for n := range 10 {
		if !send(t, c, n) {
			t.Fatalf("no room for %d", n)
		}
		if got := next(t, c); len(got.Events) != 1 || got.FirstSequence != 0 {
			t.Errorf("got %v", got)
		}
	}
	if c.takenOver() != 0 {
		t.Errorf("knows what was taken over: %d", c.takenOver())
	}
}
