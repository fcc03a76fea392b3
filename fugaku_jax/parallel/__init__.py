"""Operations of a model that devices share."""
