package check

// Planted says which checkers must fail on a run of a binary that has a bug of package
// internal/planted, by the bug's name. Others may fail besides.
var Planted = map[string][]string{
	"lost_ack":    {Acknowledged},
	"double":      {Acknowledged, AtMostOnce},
	"reorder":     {Acknowledged, RealTimeOrder, Linearizable, Porcupine},
	"stale_read":  {Linearizable, Porcupine},
	"session":     {Session},
	"watch_gap":   {Watches},
	"watch_twice": {Watches},
	"fork":        {Replicas},
	"verdict":     {Verdicts},
	"head":        {Heads},
	"no_lookup":   {Workload},
	"stall":       {Progress, Recovery},
}
