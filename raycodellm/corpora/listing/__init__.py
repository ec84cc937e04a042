"""The files of sources: on local disks, in object stores, on the hub, or built in."""
