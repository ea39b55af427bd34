// Package limits measures what a machine could do at most, beside which the
// rates of a cluster on it are read: how often its disk syncs, and what raft
// alone reaches over it. It knows nothing of Exonode. Package bench calls it.
package limits
