"""Plan and run a sweep. `plan` needs neither Ray nor torch; import `tradesweep.sweep.run` for the rest."""
