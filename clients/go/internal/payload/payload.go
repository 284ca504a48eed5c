// Package payload turns Go values into the payloads of events and back (docs/protocol.md F4, F7).
//
// encoding/json does the work. What it would write and a session could not carry exactly (text that is no UTF-8, integers
// beyond 64 bits, hundreds of levels) is refused with an [Error], never changed.
package payload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/session-service/session-service/clients/go/sessionpb"
)

// Error says that a value cannot be carried exactly.
type Error struct {
	// Path says where the fault is, such as data.items[3].
	Path string
	// Message says what it is.
	Message string
}

func (e *Error) Error() string { return e.Path + ": " + e.Message }

func refuse(path, format string, args ...any) *Error {
	return &Error{Path: path, Message: fmt.Sprintf(format, args...)}
}

// EncodeEvent returns an encoded AttachRequest that holds one event alone, and the size of the event: what counts
// against the window (D5). Such requests, one behind the other, are again one request that holds all their events.
func EncodeEvent(name, taskID string, data any) (encoded []byte, size int, err error) {
	event := &sessionpb.Event{Event: name, TaskId: taskID}
	switch value := data.(type) {
	case []byte:
		event.Payload = &sessionpb.Event_Blob{Blob: value}
	case proto.Message:
		message, err := pack(value)
		if err != nil {
			return nil, 0, err
		}
		event.Payload = &sessionpb.Event_Message{Message: message}
	default:
		text, err := encodeJSON(value, "data", exactJSON)
		if err != nil {
			return nil, 0, err
		}
		event.Payload = &sessionpb.Event_Json{Json: string(text)}
	}
	encoded, err = proto.Marshal(&sessionpb.AttachRequest{Events: []*sessionpb.Event{event}})
	if err != nil { // a name that is no UTF-8
		return nil, 0, refuse("event", "%v", err)
	}
	return encoded, proto.Size(event), nil
}

// EncodeParams returns params as a Struct, whose numbers are doubles.
func EncodeParams(params map[string]any) (*structpb.Struct, error) {
	if len(params) == 0 {
		return nil, nil
	}
	text, err := encodeJSON(params, "params", exactValue)
	if err != nil {
		return nil, err
	}
	result := &structpb.Struct{}
	if err := result.UnmarshalJSON(text); err != nil {
		return nil, refuse("params", "%v", err)
	}
	return result, nil
}

// DecodeSpec returns what an app has sent: json.RawMessage, []byte or a proto.Message; an *anypb.Any where this program
// does not know the type.
func DecodeSpec(command *sessionpb.Command) (any, error) {
	switch payload := command.GetPayload().(type) {
	case nil:
		return json.RawMessage("null"), nil
	case *sessionpb.Command_Json:
		if !json.Valid([]byte(payload.Json)) {
			return nil, refuse("json", "this is no JSON")
		}
		if err := exactJSON.check([]byte(payload.Json), "json"); err != nil {
			return nil, err
		}
		return json.RawMessage(payload.Json), nil
	case *sessionpb.Command_Spec:
		text, err := payload.Spec.MarshalJSON()
		if err != nil {
			return nil, refuse("spec", "%v", err)
		}
		return json.RawMessage(text), nil
	case *sessionpb.Command_Blob:
		return payload.Blob, nil
	case *sessionpb.Command_Message:
		message, err := payload.Message.UnmarshalNew()
		if errors.Is(err, protoregistry.NotFound) {
			return payload.Message, nil
		}
		if err != nil {
			return nil, refuse("message", "%v", err)
		}
		return message, nil
	default:
		return nil, refuse("command", "a payload of a kind that this client does not know: %T", payload)
	}
}

func pack(message proto.Message) (*anypb.Any, error) {
	if packed, ok := message.(*anypb.Any); ok {
		return packed, nil
	}
	packed, err := anypb.New(message)
	if err != nil { // a required field of proto2 is missing, or a text is no UTF-8
		return nil, refuse("data", "%v", err)
	}
	return packed, nil
}

func encodeJSON(value any, path string, exact exactness) ([]byte, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, refuse(path, "%v", err)
	}
	text := bytes.TrimSuffix(buffer.Bytes(), []byte("\n"))
	if err := exact.check(text, path); err != nil {
		return nil, err
	}
	if mayHoldReplacement(text) {
		if err := checkUTF8(value, path); err != nil {
			return nil, err
		}
	}
	return text, nil
}
