"""The tasks of the tables on transfer of Ma et al. (ICLR 2024): C3, OCNLI, CMNLI and DuReader."""
