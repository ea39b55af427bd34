package gates

// Scale is the number of units in 1: effects and thresholds are integers in
// ten-thousandths.
const Scale = 10_000

// Effect is an effect vector in ten-thousandths, each 0 to Scale, in the order
// risk, fairness, privacy, novelty, security.
type Effect [5]uint16
