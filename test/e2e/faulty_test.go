package e2e

func faultyNode() bool { return false }
