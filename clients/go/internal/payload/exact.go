package payload

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// exactness is what a format of JSON values can carry.
type exactness struct {
	maxDepth int
	carries  func(integer string) bool
	limit    string
}

var (
	// JSON as text.
	exactJSON = exactness{
		maxDepth: 200,
		carries: func(integer string) bool {
			if strings.HasPrefix(integer, "-") {
				_, err := strconv.ParseInt(integer, 10, 64)
				return err == nil
			}
			_, err := strconv.ParseUint(integer, 10, 64)
			return err == nil
		},
		limit: "64 bits",
	}
	// google.protobuf.Value: protobuf writes deeper than it reads, and its numbers are doubles.
	exactValue = exactness{
		maxDepth: 30,
		carries: func(integer string) bool {
			n, err := strconv.ParseInt(integer, 10, 64)
			return err == nil && -(1<<53) <= n && n <= 1<<53
		},
		limit: "2^53",
	}
)

// check walks over valid JSON text and refuses what cannot be carried.
func (e exactness) check(text []byte, path string) error {
	depth := 0
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '"':
			end, ok := skipString(text, i)
			if !ok {
				return refuse(path, "the text %.40q holds a lone surrogate, which UTF-8 cannot carry", text[i:end])
			}
			i = end
		case c == '[' || c == '{':
			if depth++; depth > e.maxDepth {
				return refuse(path, "nested deeper than %d levels", e.maxDepth)
			}
			i++
		case c == ']' || c == '}':
			depth--
			i++
		case c == '-' || ('0' <= c && c <= '9'):
			end := i + 1
			for end < len(text) && strings.IndexByte("0123456789.eE+-", text[end]) >= 0 {
				end++
			}
			if err := e.checkNumber(string(text[i:end]), path); err != nil {
				return err
			}
			i = end
		default:
			i++
		}
	}
	return nil
}

func (e exactness) checkNumber(number, path string) error {
	if !strings.ContainsAny(number, ".eE") {
		if !e.carries(number) {
			return refuse(path, "the integer %.24s is beyond %s: send it as text", number, e.limit)
		}
	} else if _, err := strconv.ParseFloat(number, 64); err != nil {
		return refuse(path, "the number %.24s is beyond what a float64 holds", number)
	}
	return nil
}

// skipString returns where the string that begins at start ends; not ok at an escaped surrogate without its other half.
func skipString(text []byte, start int) (end int, ok bool) {
	ok = true
	for i := start + 1; i < len(text); {
		switch text[i] {
		case '"':
			return i + 1, ok
		case '\\':
			unit := escaped(text, i)
			switch {
			case 0xD800 <= unit && unit < 0xDC00:
				if next := escaped(text, i+6); 0xDC00 <= next && next < 0xE000 {
					i += 6
				} else {
					ok = false
				}
				i += 6
			case 0xDC00 <= unit && unit < 0xE000:
				ok = false
				i += 6
			default:
				i += 2 // of \u000A the rest is skipped as plain text
			}
		default:
			i++
		}
	}
	return len(text), ok
}

// escaped returns the unit of the \u escape at i, or 0 where there is none.
func escaped(text []byte, i int) uint64 {
	if i+6 > len(text) || text[i] != '\\' || text[i+1] != 'u' {
		return 0
	}
	unit, err := strconv.ParseUint(string(text[i+2:i+6]), 16, 32)
	if err != nil {
		return 0
	}
	return unit
}

// mayHoldReplacement reports whether encoding/json may have written U+FFFD for what was no UTF-8.
func mayHoldReplacement(text []byte) bool {
	return bytes.Contains(text, []byte(`\ufffd`)) || bytes.ContainsRune(text, utf8.RuneError)
}

var (
	marshaler     = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()
)

// checkUTF8 refuses strings that are no UTF-8. What marshals itself answers for itself.
func checkUTF8(value any, path string) error {
	return walkUTF8(reflect.ValueOf(value), path)
}

func walkUTF8(value reflect.Value, path string) error {
	if !value.IsValid() || value.Type().Implements(marshaler) || value.Type().Implements(textMarshaler) {
		return nil
	}
	switch value.Kind() {
	case reflect.String:
		if !utf8.ValidString(value.String()) {
			return refuse(path, "the text %.40q is no UTF-8", value.String())
		}
	case reflect.Pointer, reflect.Interface:
		if !value.IsNil() {
			return walkUTF8(value.Elem(), path)
		}
	case reflect.Slice, reflect.Array:
		for i := range value.Len() {
			if err := walkUTF8(value.Index(i), path+"["+strconv.Itoa(i)+"]"); err != nil {
				return err
			}
		}
	case reflect.Map:
		for items := value.MapRange(); items.Next(); {
			if err := walkUTF8(items.Key(), path); err != nil {
				return err
			}
			if err := walkUTF8(items.Value(), path+"["+strconv.Quote(items.Key().String())+"]"); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range value.NumField() {
			field := value.Type().Field(i)
			if (!field.IsExported() && !field.Anonymous) || field.Tag.Get("json") == "-" {
				continue
			}
			if err := walkUTF8(value.Field(i), path+"."+field.Name); err != nil {
				return err
			}
		}
	}
	return nil
}
