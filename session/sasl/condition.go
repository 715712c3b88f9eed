package sasl

// A Condition is why an exchange failed. It is also an error.
type Condition uint8

// The conditions, with the names of RFC 6120 section 6.5, which are those of their elements. NoCondition is
// none.
const (
	NoCondition Condition = iota
	Aborted
	AccountDisabled
	CredentialsExpired
	EncryptionRequired
	IncorrectEncoding
	InvalidAuthzid
	InvalidMechanism
	MalformedRequest
	MechanismTooWeak
	NotAuthorized
	TemporaryAuthFailure
)

// conditionNames are the names of the elements.
var conditionNames = [...]string{"", "aborted", "account-disabled", "credentials-expired",
	"encryption-required", "incorrect-encoding", "invalid-authzid",
	"invalid-mechanism", "malformed-request", "mechanism-too-weak", "not-authorized", "temporary-auth-failure"}

// String returns the name of the condition's element.
func (c Condition) String() string {
	if int(c) < len(conditionNames) {
		return conditionNames[c]
	}
	return "not-authorized"
}

// ParseCondition returns the condition with that element name; NotAuthorized for an unknown name.
// Clients use it.
func ParseCondition(name string) Condition {
	for c := Aborted; c <= TemporaryAuthFailure; c++ {
		if conditionNames[c] == name {
			return c
		}
	}
	return NotAuthorized
}

// Error implements error: a client's login fails with a Condition.
func (c Condition) Error() string { return "sasl: " + c.String() }
