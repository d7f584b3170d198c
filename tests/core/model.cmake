espalier_test(test_lowrank SOURCES core/test_lowrank.cpp LIBS espalier::lowrank espalier::checkpoint)
espalier_test(test_model SOURCES core/test_model.cpp core/test_row_operations.cpp core/test_weight_matrix.cpp LIBS espalier::model espalier::lowrank)
espalier_test(test_residence SOURCES core/test_residence.cpp LIBS espalier::model espalier::lowrank)
espalier_test(test_decode SOURCES core/test_decode.cpp LIBS espalier::model espalier::tokenizer)
espalier_test(test_placement SOURCES core/test_placement.cpp LIBS espalier::model)
espalier_test(test_layer_gradient SOURCES core/test_layer_gradient.cpp LIBS espalier::model)

# Once more as on a processor without AVX-512: most desktops. oneDNN and ATen read this when they are used first.
espalier_test_without_avx512(test_model "*Bf16*:*bf16*:Model.*:WeightMatrix*:Types/*")
espalier_test_without_avx512(test_residence "*bf16*:*fp32*:HeadInBlocks.*")
espalier_test_without_avx512(test_layer_gradient "*Bf16*")
