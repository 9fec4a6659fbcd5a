"""What a planner must do before it is given sessions: the suite behind `cuelight orchestrator check` and each swap."""
