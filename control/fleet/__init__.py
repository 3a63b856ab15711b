"""Many gateways behind one control plane: who is a member, what each serves, and switching them all or none.

`states` and `rollout_plan` decide and know no I/O; `member_book` and `rollout_book` are their rows; `members` is the
live picture; `rollouts` carries a switch out; `keeper` brings members that differ to what is committed. The one truth
is the active model of the database: whatever is interrupted is settled by a row, and the keeper does the rest.
"""
