package sasl

// A Condition is why an exchange failed, by the names of RFC 6120 §6.5, which are those of its elements.
type Condition uint8

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

// ParseCondition returns the condition of an element's name, for a client. An unknown one is NotAuthorized.
func ParseCondition(name string) Condition {
	for c := Aborted; c <= TemporaryAuthFailure; c++ {
		if conditionNames[c] == name {
			return c
		}
	}
	return NotAuthorized
}

// Error makes a Condition the error of a client's login.
func (c Condition) Error() string { return "sasl: " + c.String() }
