"""bAbI (Weston et al. 2015): twenty tasks of reading short stories, with the answers among the task's answer words."""
