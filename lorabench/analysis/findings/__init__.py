"""What may keep a number of the report from meaning what it says: found by rules, each with its sentence."""
