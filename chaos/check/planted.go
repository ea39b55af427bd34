package check

// Planted says which checkers must fail on a run of a binary that was built with a bug
// from package internal/planted, by the bug's build tag. Others may fail besides.
var Planted = map[string][]string{
	"planted_lost_ack":    {Acknowledged},
	"planted_double":      {Acknowledged, AtMostOnce},
	"planted_reorder":     {Acknowledged, RealTimeOrder},
	"planted_stale_read":  {Linearizable},
	"planted_session":     {Session},
	"planted_watch_gap":   {Watches},
	"planted_watch_twice": {Watches},
	"planted_fork":        {Replicas},
	"planted_verdict":     {Verdicts},
	"planted_head":        {Heads},
	"planted_stall":       {Progress, Recovery},
}
