package session_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/session-service/session-service/clients/go/session"
	pb "github.com/session-service/session-service/clients/go/sessionpb"
)

// script is what a fake server does with one call; what it returns ends the call.
type script func(c *call) error

// fake is a server that answers what a test tells it to, right or wrong: one script for each call. In a bubble of
// testing/synctest its time, and the client's, is as long as the test wants and takes none.
type fake struct {
	t        *testing.T
	listener *bufconn.Listener

	mu      sync.Mutex
	scripts []script
	calls   []*call
}

func serve(t *testing.T, scripts ...script) *fake {
	t.Helper()
	return serveWith(t, nil, scripts...)
}

func serveWith(t *testing.T, options []grpc.ServerOption, scripts ...script) *fake {
	t.Helper()
	f := &fake{t: t, listener: bufconn.Listen(1 << 20), scripts: scripts}
	server := grpc.NewServer(append([]grpc.ServerOption{
		grpc.ForceServerCodec(bytesCodec{}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return f.attach(stream) }),
	}, options...)...)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(f.listener) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return f
}

func (f *fake) attach(stream grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	c := &call{t: f.t, stream: stream, metadata: md}
	f.mu.Lock()
	number := len(f.calls)
	f.calls = append(f.calls, c)
	f.mu.Unlock()
	if number >= len(f.scripts) {
		return status.Error(codes.Unimplemented, "the fake has no script for another call")
	}
	return f.scripts[number](c)
}

// client makes a client of the fake.
func (f *fake) client(opts ...session.Option) *session.Client {
	f.t.Helper()
	client, err := session.NewClient("passthrough:///fake", append([]session.Option{
		session.WithTransportCredentials(insecure.NewCredentials()),
		session.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return f.listener.DialContext(ctx)
		})),
	}, opts...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = client.Close() })
	return client
}

// all returns the calls that there were.
func (f *fake) all() []*call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// began returns what each call began with.
func (f *fake) began() []string {
	var began []string
	for _, c := range f.all() {
		switch {
		case c.request(0).GetOpen() != nil:
			began = append(began, "open")
		case c.request(0).GetResume() != nil:
			began = append(began, "resume")
		default:
			began = append(began, "nothing")
		}
	}
	return began
}

// call is one Attach call, seen from the server.
type call struct {
	t        *testing.T
	stream   grpc.ServerStream
	metadata metadata.MD

	mu       sync.Mutex
	requests []*pb.AttachRequest
	times    []time.Time
}

// read returns the next request; io.EOF once there will be no more.
func (c *call) read() (*pb.AttachRequest, error) {
	var data []byte
	if err := c.stream.RecvMsg(&data); err != nil {
		return nil, err
	}
	request := &pb.AttachRequest{}
	if err := proto.Unmarshal(data, request); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, request)
	c.times = append(c.times, time.Now())
	return request, nil
}

// readUntil returns the first request that meets the condition.
func (c *call) readUntil(condition func(*pb.AttachRequest) bool) (*pb.AttachRequest, error) {
	for {
		request, err := c.read()
		if err != nil || condition(request) {
			return request, err
		}
	}
}

// readAll reads until the client has ended the call, or its half of it.
func (c *call) readAll() error {
	_, err := c.readUntil(func(*pb.AttachRequest) bool { return false })
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *call) write(response *pb.AttachResponse) error {
	data, err := proto.Marshal(response)
	if err != nil {
		return err
	}
	return c.writeBytes(data)
}

func (c *call) writeBytes(data []byte) error { return c.stream.SendMsg(data) }

// request returns what came as number n, empty where nothing did.
func (c *call) request(n int) *pb.AttachRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n >= len(c.requests) {
		return &pb.AttachRequest{}
	}
	return c.requests[n]
}

// log returns the requests that came, and when, counted from the first.
func (c *call) log() (requests []*pb.AttachRequest, at []time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.times {
		at = append(at, t.Sub(c.times[0]))
	}
	return slices.Clone(c.requests), at
}

// attach answers the first request as a decent server does, and begins with these commands.
func (c *call) attach(received uint64, commands ...*pb.Command) error {
	return c.attachWith(limits(), received, commands...)
}

func (c *call) attachWith(limits *pb.Limits, received uint64, commands ...*pb.Command) error {
	request, err := c.read()
	if err != nil {
		return err
	}
	response := &pb.AttachResponse{Commands: commands}
	if resume := request.GetResume(); resume != nil {
		response.Control = &pb.AttachResponse_Resumed{Resumed: &pb.Resumed{Received: received, Limits: limits}}
		response.FirstSequence = resume.Received + 1
	} else {
		response.Control = &pb.AttachResponse_Opened{
			Opened: &pb.Opened{SessionId: "s-1", ResumeToken: "token", Limits: limits},
		}
		response.FirstSequence = 1
	}
	if !request.GetOpen().GetResumable() && request.GetOpen() != nil || len(commands) == 0 {
		response.FirstSequence = 0
	}
	return c.write(response)
}

// end ends the session: closed is the command with this sequence.
func (c *call) end(sequence uint64) error {
	err := c.write(&pb.AttachResponse{Control: &pb.AttachResponse_Closed{
		Closed: &pb.Closed{Reason: pb.CloseReason_CLOSE_REASON_COMPLETED, Sequence: sequence},
	}})
	if err != nil {
		return err
	}
	_, err = c.readUntil(func(r *pb.AttachRequest) bool { return r.Ack == sequence })
	if err != nil {
		return err
	}
	return c.readAll()
}

func limits() *pb.Limits {
	return &pb.Limits{
		EventWindow:       &pb.Window{Messages: 1024, Bytes: 1 << 20},
		CommandWindow:     &pb.Window{Messages: 1024, Bytes: 1 << 20},
		MaxMessageBytes:   4_000_000,
		HeartbeatInterval: durationpb.New(25 * time.Second),
	}
}

// command returns a command whose spec is its number.
func command(n int) *pb.Command {
	return &pb.Command{TaskId: "main-1", Command: "c", Payload: &pb.Command_Json{Json: strconv.Itoa(n)}}
}

// numbered returns a response with the commands from one number to another.
func numbered(from, to int) *pb.AttachResponse {
	response := &pb.AttachResponse{FirstSequence: uint64(from)}
	for n := from; n <= to; n++ {
		response.Commands = append(response.Commands, command(n))
	}
	return response
}

// refusal returns an error with an ErrorInfo; metadata comes as keys and values.
func refusal(code codes.Code, reason, retry string, metadata ...string) error {
	return refusalOf("session_service", code, reason, retry, metadata...)
}

func refusalOf(domain string, code codes.Code, reason, retry string, metadata ...string) error {
	info := &errdetails.ErrorInfo{Domain: domain, Reason: reason, Metadata: map[string]string{}}
	if retry != "" {
		info.Metadata["retry"] = retry
	}
	for i := 0; i < len(metadata); i += 2 {
		info.Metadata[metadata[i]] = metadata[i+1]
	}
	return withDetails(code, "the fake says "+reason, info)
}

func withDetails(code codes.Code, message string, details ...protoadapt.MessageV1) error {
	s, err := status.New(code, message).WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return s.Err()
}

// bytesCodec hands messages through as bytes.
type bytesCodec struct{}

func (bytesCodec) Name() string                  { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = data
	return nil
}

// numbers takes all commands and returns their specs.
func numbers(ctx context.Context, s *session.Session) ([]int, error) {
	var got []int
	for command := range s.Commands(ctx) {
		var n int
		if err := command.Decode(&n); err != nil {
			return got, err
		}
		got = append(got, n)
	}
	return got, s.Err()
}
