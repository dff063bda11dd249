"""What ties the two arms together: traced memory beside stored studies, weights beside their report. Only commands and
the API stand above."""
