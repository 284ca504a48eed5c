package payload

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/session-service/session-service/clients/go/sessionpb"
)

func encoded(t *testing.T, data any) *sessionpb.Event {
	t.Helper()
	text, size, err := EncodeEvent("e", "task", data)
	if err != nil {
		t.Fatal(err)
	}
	request := &sessionpb.AttachRequest{}
	if err := proto.Unmarshal(text, request); err != nil || len(request.Events) != 1 {
		t.Fatalf("%v, %v", request, err)
	}
	if size != proto.Size(request.Events[0]) {
		t.Errorf("the size is said to be %d", size)
	}
	return request.Events[0]
}

func TestJSONIsCarriedExactly(t *testing.T) {
	for name, test := range map[string]struct {
		data any
		want string
	}{
		"nothing":               {nil, `null`},
		"text":                  {"<ä & b>\u2028", `"<ä & b>\u2028"`},
		"a replacement":         {"\ufffd", "\"\ufffd\""},
		"a struct":              {struct{ A, B int }{1, 2}, `{"A":1,"B":2}`},
		"the least int64":       {math.MinInt64, `-9223372036854775808`},
		"the greatest uint64":   {uint64(math.MaxUint64), `18446744073709551615`},
		"a json.Number":         {json.Number("1.50"), `1.50`},
		"raw JSON":              {json.RawMessage(`{"a": [1.0, 1]}`), `{"a":[1.0,1]}`},
		"an escaped pair":       {json.RawMessage(`"\ud83d\ude00"`), `"\ud83d\ude00"`},
		"an escaped backslash":  {json.RawMessage(`"\\ud800"`), `"\\ud800"`},
		"digits in a text":      {"123456789012345678901234567890", `"123456789012345678901234567890"`},
		"brackets in a text":    {strings.Repeat("[", 300), `"` + strings.Repeat("[", 300) + `"`},
		"as deep as can be":     {json.RawMessage(nested(200)), nested(200)},
		"what marshals itself":  {time.Unix(0, 0).UTC(), `"1970-01-01T00:00:00Z"`},
		"a float with an e":     {1e21, `1e+21`},
		"a []byte within":       {map[string][]byte{"a": []byte("x")}, `{"a":"eA=="}`},
		"an empty slice of any": {[]any{}, `[]`},
	} {
		t.Run(name, func(t *testing.T) {
			event := encoded(t, test.data)
			if event.GetJson() != test.want || event.Event != "e" || event.TaskId != "task" {
				t.Errorf("got %v", event)
			}
		})
	}
}

func TestBytesAndMessagesAreCarriedAsWhatTheyAre(t *testing.T) {
	if got := encoded(t, []byte{0, 255}).GetBlob(); string(got) != "\x00\xff" {
		t.Errorf("bytes: %q", got)
	}
	message, err := encoded(t, wrapperspb.String("a")).GetMessage().UnmarshalNew()
	if err != nil || !proto.Equal(message, wrapperspb.String("a")) {
		t.Errorf("a message: %v, %v", message, err)
	}
	unknown := &anypb.Any{TypeUrl: "type.example/nobody.Knows", Value: []byte("x")}
	if got := encoded(t, unknown).GetMessage(); !proto.Equal(got, unknown) {
		t.Errorf("an Any: %v", got)
	}
}

func TestWhatCannotBeCarriedIsRefused(t *testing.T) {
	type inner struct {
		Text string
		skip string
		Skip string `json:"-"`
	}
	for name, test := range map[string]struct {
		data any
		path string
		says string
	}{
		"a NaN":                     {math.NaN(), "data", "NaN"},
		"an infinity":               {[]float64{math.Inf(1)}, "data", "Inf"},
		"a channel":                 {make(chan int), "data", "chan int"},
		"no JSON":                   {json.RawMessage(`{`), "data", "JSON"},
		"an integer too large":      {json.Number("18446744073709551616"), "data", "beyond 64 bits"},
		"one too small":             {json.Number("-9223372036854775809"), "data", "beyond 64 bits"},
		"a large big.Int":           {new(big.Int).Lsh(big.NewInt(1), 64), "data", "beyond 64 bits"},
		"a float that looks like 1": {1e20, "data", "beyond 64 bits"},
		"a float too large":         {json.Number("1e400"), "data", "float64"},
		"too deep":                  {json.RawMessage(nested(201)), "data", "200 levels"},
		"half a pair":               {json.RawMessage(`"\ud800"`), "data", "surrogate"},
		"half a pair, then text":    {json.RawMessage(`"\ud800abcdefghijkl"`), "data", "surrogate"},
		"the other half":            {json.RawMessage(`["\uDE00"]`), "data", "surrogate"},
		"no UTF-8":                  {"a\xff", "data", "UTF-8"},
		"no UTF-8 somewhere":        {map[string]any{"a": []any{1, &inner{"\xff", "", ""}}}, `data["a"][1].Text`, "UTF-8"},
		"a key that is no UTF-8":    {map[string]int{"\xff": 1}, "data", "UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := EncodeEvent("e", "", test.data)
			refusedAt(t, err, test.path, test.says)
		})
	}
	encoded(t, inner{"\ufffd", "\xff", "\xff"}) // what is not written does not matter
	_, _, err := EncodeEvent("\xff", "", nil)
	refusedAt(t, err, "event", "UTF-8")
}

func TestParamsAreDoublesAndNestLess(t *testing.T) {
	params, err := EncodeParams(map[string]any{"n": 1 << 53, "f": 0.5, "list": []string{"a"}})
	if err != nil || params.Fields["n"].GetNumberValue() != 1<<53 || params.Fields["list"].GetListValue() == nil {
		t.Errorf("%v, %v", params, err)
	}
	_, err = EncodeParams(map[string]any{"n": 1<<53 + 1})
	refusedAt(t, err, "params", "beyond 2^53")
	if _, err = EncodeParams(map[string]any{"deep": json.RawMessage(nested(29))}); err != nil {
		t.Error(err)
	}
	_, err = EncodeParams(map[string]any{"deep": json.RawMessage(nested(30))})
	refusedAt(t, err, "params", "30 levels")
}

func TestASpecIsWhatTheAppSent(t *testing.T) {
	value, err := structpb.NewValue(map[string]any{"a": 1.5})
	if err != nil {
		t.Fatal(err)
	}
	packed, err := anypb.New(durationpb.New(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	unknown := &anypb.Any{TypeUrl: "type.example/nobody.Knows", Value: []byte("x")}
	for name, test := range map[string]struct {
		command *sessionpb.Command
		check   func(any) bool
	}{
		"absent":  {&sessionpb.Command{}, func(v any) bool { return string(v.(json.RawMessage)) == "null" }},
		"JSON":    {&sessionpb.Command{Payload: &sessionpb.Command_Json{Json: "[1.0]"}}, func(v any) bool { return string(v.(json.RawMessage)) == "[1.0]" }},
		"a Value": {&sessionpb.Command{Payload: &sessionpb.Command_Spec{Spec: value}}, func(v any) bool { return strings.Contains(string(v.(json.RawMessage)), "1.5") }},
		"bytes":   {&sessionpb.Command{Payload: &sessionpb.Command_Blob{Blob: []byte("x")}}, func(v any) bool { return string(v.([]byte)) == "x" }},
		"a message": {&sessionpb.Command{Payload: &sessionpb.Command_Message{Message: packed}}, func(v any) bool {
			return v.(*durationpb.Duration).AsDuration() == time.Second
		}},
		"an unknown message": {&sessionpb.Command{Payload: &sessionpb.Command_Message{Message: unknown}}, func(v any) bool {
			return proto.Equal(v.(*anypb.Any), unknown)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := DecodeSpec(test.command)
			if err != nil || !test.check(spec) {
				t.Errorf("got %v, %v", spec, err)
			}
		})
	}
	for name, command := range map[string]*sessionpb.Command{
		"no JSON":      {Payload: &sessionpb.Command_Json{Json: "{"}},
		"too large":    {Payload: &sessionpb.Command_Json{Json: "18446744073709551616"}},
		"bad bytes":    {Payload: &sessionpb.Command_Message{Message: &anypb.Any{TypeUrl: packed.TypeUrl, Value: []byte{0xff}}}},
		"a NaN inside": {Payload: &sessionpb.Command_Spec{Spec: structpb.NewNumberValue(math.NaN())}},
	} {
		if spec, err := DecodeSpec(command); err == nil {
			t.Errorf("%s: got %v", name, spec)
		}
	}
}

// FuzzExact holds what check says against what encoding/json reads.
func FuzzExact(f *testing.F) {
	for _, text := range []string{`"\ud83d\ude00"`, `"\ud800\\"`, `[1e5,-0,{"a":"]"}]`, `"\u000a\""`, nested(201)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !json.Valid([]byte(text)) {
			t.Skip()
		}
		if err := exactJSON.check([]byte(text), "data"); err != nil {
			return
		}
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			t.Fatalf("passes %q, which does not decode: %v", text, err)
		}
		if strings.ContainsRune(string(must(json.Marshal(value))), '\ufffd') && !strings.Contains(text, "\ufffd") &&
			!strings.Contains(strings.ToLower(text), `\ufffd`) && strings.ToValidUTF8(text, "") == text {
			t.Fatalf("passes %q, which decodes with a replacement", text)
		}
	})
}

func must(text []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return text
}

func nested(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }

func refusedAt(t *testing.T, err error, path, says string) {
	t.Helper()
	var fault *Error
	if !errors.As(err, &fault) || fault.Path != path || !strings.Contains(fault.Message, says) {
		t.Errorf("got %v", err)
	}
}
