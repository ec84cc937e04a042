"""Slots: long-lived Ray Train worker groups that take job after job from one dispatcher. The only door to `ray.train`.

A new worker group costs tens of seconds; the next job in a warm one costs a fraction of a second. Each slot is one
`TorchTrainer.fit()` in a thread of the driver. Ray Train restarts a slot's workers when they die, and the restarted
loop takes the job again from its newest checkpoint. Workers that are told to leave (by SIGTERM, or since their node
will be taken away) save their stage at once and give it back.

dispatcher: the actor, around `dispatch`; handle: how others call it
head: where helpers live
pool: the driver's side, with as many slots as there is work for
trainer, controller: the Ray Train run of one slot; gpus: whether its workers can use their GPUs
worker: the loop inside the workers; client: a worker's line to the dispatcher; evaluation_job: one evaluation
lease: one sweep at a time trains a stage; notice, ray_train: what workers hear of leaving

Import from these files. This one imports none of them: the dispatcher's process needs no torch, which takes 1.3 s of a
core, and the command line only needs `threads`.
"""
