package chain

// String returns the decision's name: permit, warn, escalate, deny, emergency;
// "unknown" for what is none.
func (d Decision) String() string {
	switch d {
	case Permit:
		return "permit"
	case Warn:
		return "warn"
	case Escalate:
		return "escalate"
	case Deny:
		return "deny"
	case Emergency:
		return "emergency"
	}
	return "unknown"
}
