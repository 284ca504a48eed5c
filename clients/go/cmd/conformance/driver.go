package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/session-service/session-service/clients/go/internal/conformancepb"
	"github.com/session-service/session-service/clients/go/session"
)

// driver has one client, and one session at a time.
type driver struct {
	client  *session.Client
	session *session.Session
	opening *opening
}

// opening is an open that goes on in the background.
type opening struct {
	cancel context.CancelFunc
	ended  chan error
}

var errNoSession = errors.New("there is no session: open one first")

func (d *driver) stop() {
	if d.client != nil {
		_ = d.client.Close() // there is nobody left to tell
	}
}

func (d *driver) carryOut(ctx context.Context, instruction *pb.Instruction) *pb.Observation {
	observation, err := d.try(ctx, instruction)
	if err != nil {
		return &pb.Observation{Observation: &pb.Observation_Error{Error: describe(err)}}
	}
	return observation
}

func (d *driver) try(ctx context.Context, instruction *pb.Instruction) (*pb.Observation, error) {
	switch i := instruction.Instruction.(type) {
	case *pb.Instruction_Connect:
		return d.onConnect(i.Connect)
	case *pb.Instruction_Open:
		return d.onOpen(ctx, i.Open)
	case *pb.Instruction_Resume:
		return d.onResume(ctx, i.Resume)
	case *pb.Instruction_GiveUp:
		return d.onGiveUp()
	}
	if d.session == nil {
		return nil, errNoSession
	}
	switch i := instruction.Instruction.(type) {
	case *pb.Instruction_Send:
		return d.onSend(ctx, i.Send)
	case *pb.Instruction_Receive:
		return d.onReceive(ctx, i.Receive), nil
	case *pb.Instruction_Close:
		return d.onClose(ctx, i.Close)
	case *pb.Instruction_Detach:
		position, err := d.session.Detach(ctx)
		if err != nil {
			return nil, err
		}
		return saved(position)
	case *pb.Instruction_SavePosition:
		return saved(d.session.Position())
	default:
		why := fmt.Sprintf("the driver does not know %T", i)
		return &pb.Observation{Observation: &pb.Observation_Unsupported{Unsupported: &pb.Unsupported{Why: why}}}, nil
	}
}

func (d *driver) onConnect(connect *pb.Connect) (*pb.Observation, error) {
	d.stop()
	d.session = nil
	options := []session.Option{
		session.WithTransportCredentials(insecure.NewCredentials()),
		session.WithCommandWindow(connect.CommandWindowMessages, connect.CommandWindowBytes),
		session.WithRetryPolicy(session.RetryPolicy{
			Initial:       connect.RetryInitial.AsDuration(),
			Maximum:       connect.RetryMaximum.AsDuration(),
			Total:         connect.RetryTotal.AsDuration(),
			AttachTimeout: connect.AttachTimeout.AsDuration(),
		}),
	}
	if len(connect.Tokens) > 0 {
		options = append(options, session.WithCredentials(inTurn(connect.Tokens)))
	}
	client, err := session.NewClient(connect.Address, options...)
	d.client = client
	if err != nil {
		return nil, err
	}
	return done(false), nil
}

// inTurn gives out tokens one after the other, and the last one from then on.
func inTurn(tokens []string) session.Credentials {
	var mu sync.Mutex
	return func(context.Context) (metadata.MD, error) {
		mu.Lock()
		defer mu.Unlock()
		token := tokens[0]
		if len(tokens) > 1 {
			tokens = tokens[1:]
		}
		return metadata.Pairs("authorization", "Bearer "+token), nil
	}
}

func (d *driver) onOpen(ctx context.Context, open *pb.OpenSession) (*pb.Observation, error) {
	if d.client == nil {
		return nil, errors.New("there is no client: connect first")
	}
	var options []session.OpenOption
	if open.Params != nil {
		options = append(options, session.WithParams(open.Params.AsMap()))
	}
	if open.Plain {
		options = append(options, session.Plain())
	}
	if open.ResumeWindow != nil {
		options = append(options, session.WithResumeWindow(open.ResumeWindow.AsDuration()))
	}
	if open.RequestId != "" {
		options = append(options, session.WithRequestID(open.RequestId))
	}
	if open.InBackground {
		ctx, cancel := context.WithCancel(ctx)
		opening := &opening{cancel, make(chan error, 1)}
		d.opening = opening
		go func() {
			_, err := d.client.Open(ctx, open.App, options...)
			opening.ended <- err
		}()
		return done(false), nil
	}
	return d.attached(d.client.Open(ctx, open.App, options...))
}

func (d *driver) onGiveUp() (*pb.Observation, error) {
	if d.opening == nil {
		return nil, errors.New("nothing is being opened in the background")
	}
	d.opening.cancel()
	if err := <-d.opening.ended; err != nil && !errors.Is(err, context.Canceled) {
		return nil, err
	} else if err != nil {
		return done(true), nil
	}
	return done(false), nil
}

func (d *driver) onResume(ctx context.Context, resume *pb.ResumeSession) (*pb.Observation, error) {
	if d.client == nil {
		return nil, errors.New("there is no client: connect first")
	}
	var position session.Position
	if err := json.Unmarshal(resume.GetPosition().GetSaved(), &position); err != nil {
		return nil, err
	}
	return d.attached(d.client.Resume(ctx, position))
}

func (d *driver) attached(s *session.Session, err error) (*pb.Observation, error) {
	if err != nil {
		return nil, err
	}
	d.session = s
	return &pb.Observation{Observation: &pb.Observation_Opened{
		Opened: &pb.OpenedSession{SessionId: s.ID(), TakenOver: s.TakenOver()},
	}}, nil
}

func (d *driver) onSend(ctx context.Context, send *pb.Send) (*pb.Observation, error) {
	var data any
	switch payload := send.Payload.(type) {
	case *pb.Send_Json:
		data = decode(payload.Json)
	case *pb.Send_Blob:
		data = payload.Blob
	case *pb.Send_Message:
		data = payload.Message
	}
	ctx, cancel := within(ctx, send.CancelAfter)
	defer cancel()
	for range max(send.Count, 1) {
		if err := d.session.SendTo(ctx, send.TaskId, send.Event, data); err != nil {
			if ctx.Err() != nil {
				return done(true), nil
			}
			return nil, err
		}
	}
	return done(false), nil
}

// decode returns JSON as a Go program would hold it. What it could not hold, since it is no JSON or encoding/json would
// change it, is left for the library to refuse.
func decode(text string) any {
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil || strings.Contains(text, `\ud`) {
		return json.RawMessage(text)
	}
	return value
}

func (d *driver) onReceive(ctx context.Context, receive *pb.Receive) *pb.Observation {
	ctx, cancel := within(ctx, receive.CancelAfter)
	defer cancel()
	return &pb.Observation{Observation: &pb.Observation_Received{Received: d.take(ctx, receive.Count)}}
}

// take takes commands, one at a time: so many, or all for 0.
func (d *driver) take(ctx context.Context, count uint32) *pb.Received {
	received := &pb.Received{}
	for count == 0 || len(received.Commands) < int(count) {
		command, err := d.session.Receive(ctx)
		if err == nil {
			received.Commands = append(received.Commands, show(command))
			continue
		}
		closed, ended := d.session.Closed()
		switch {
		case errors.Is(err, io.EOF) && ended:
			received.Closed = &pb.SessionClosed{Reason: closed.Reason.String(), Message: closed.Message}
		case errors.Is(err, io.EOF):
			received.Error = describe(session.ErrEnded)
		case ctx.Err() != nil:
			received.Cancelled = true
		default:
			received.Error = describe(err)
		}
		break
	}
	return received
}

func show(command session.Command) *pb.ReceivedCommand {
	shown := &pb.ReceivedCommand{TaskId: command.TaskID, Command: command.Name}
	switch spec := command.Spec.(type) {
	case json.RawMessage:
		shown.Payload = &pb.ReceivedCommand_Json{Json: string(spec)}
	case []byte:
		shown.Payload = &pb.ReceivedCommand_Blob{Blob: spec}
	case *anypb.Any:
		shown.Payload = &pb.ReceivedCommand_Message{Message: spec}
	case proto.Message:
		packed, err := anypb.New(spec)
		if err != nil {
			panic(err) // it has been decoded a moment ago
		}
		shown.Payload = &pb.ReceivedCommand_Message{Message: packed}
	}
	return shown
}

func (d *driver) onClose(ctx context.Context, instruction *pb.CloseSession) (*pb.Observation, error) {
	end := d.session.Close
	if instruction.Now {
		end = d.session.CloseNow
	}
	if _, err := end(ctx, instruction.Reason); err != nil {
		return nil, err
	}
	return &pb.Observation{Observation: &pb.Observation_Received{Received: d.take(ctx, 0)}}, nil
}

func saved(position session.Position) (*pb.Observation, error) {
	text, err := json.Marshal(position)
	if err != nil {
		return nil, err
	}
	return &pb.Observation{Observation: &pb.Observation_Position{
		Position: &pb.Position{Saved: text, Received: position.Received, Sent: position.Sent},
	}}, nil
}

func done(cancelled bool) *pb.Observation {
	return &pb.Observation{Observation: &pb.Observation_Done{Done: &pb.Done{Cancelled: cancelled}}}
}

func within(ctx context.Context, after *durationpb.Duration) (context.Context, context.CancelFunc) {
	if after == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, after.AsDuration())
}

// describe says which of the library's errors it is.
func describe(err error) *pb.Error {
	shown := &pb.Error{Kind: pb.ErrorKind_ERROR_KIND_OTHER, Message: err.Error()}
	var (
		payload  *session.PayloadError
		refused  *session.RefusedError
		poisoned *session.PoisonedEventError
		lost     *session.LostError
	)
	switch {
	case errors.As(err, &payload):
		shown.Kind = pb.ErrorKind_ERROR_KIND_PAYLOAD
	case errors.As(err, &refused):
		shown.Kind = pb.ErrorKind_ERROR_KIND_REFUSED
		if errors.Is(err, session.ErrTakenOver) {
			shown.Kind = pb.ErrorKind_ERROR_KIND_TAKEN_OVER
		}
		shown.Reason, shown.Code, shown.TakenOver = refused.Reason, code.Code(refused.Code).String(), refused.TakenOver
	case errors.As(err, &lost):
		shown.Kind = pb.ErrorKind_ERROR_KIND_LOST
		shown.TakenOver = lost.TakenOver
		if errors.As(err, &poisoned) {
			shown.Kind = pb.ErrorKind_ERROR_KIND_POISONED
			shown.Sequence, shown.Size = poisoned.Sequence, uint64(poisoned.Size)
		}
	case errors.Is(err, session.ErrEnded):
		shown.Kind = pb.ErrorKind_ERROR_KIND_ENDED
	}
	return shown
}
