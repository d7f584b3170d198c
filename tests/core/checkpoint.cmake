espalier_test(test_safetensors SOURCES core/test_safetensors.cpp LIBS espalier::checkpoint)
espalier_test(test_checkpoint SOURCES core/test_checkpoint.cpp core/test_departures.cpp core/test_inspection.cpp core/test_model_config.cpp
    core/test_tensor_files.cpp core/counting_allocator.cpp LIBS espalier::checkpoint)
