"""Where the files of sources are: on local disks, in object stores, on the hub, or built in."""
